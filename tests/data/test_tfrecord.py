"""Tests of resnet_jax.data.tfrecord."""

import concurrent.futures
import pathlib
import struct

import numpy as np
import pytest

from resnet_jax.data import tfrecord
from resnet_jax.data.data_folder import LocalFolder
from resnet_jax.data.example_source import UndecodableError
from resnet_jax.errors import UserError


def crc32c_table():
  """CRC-32C of each byte, by the definition: RFC 3720, section 12.1, bits reversed."""
  for byte in range(256):
    crc = byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    yield crc


TABLE = tuple(crc32c_table())


def masked_crc(data: bytes) -> int:
  """TensorFlow's masked CRC-32C, a byte at a time."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def encoded(record: bytes) -> bytes:
  length = struct.pack("<Q", len(record))
  return b"".join(
    (length, struct.pack("<I", masked_crc(length)), record, struct.pack("<I", masked_crc(record)))
  )


def write_records(path: pathlib.Path, records: list[bytes]) -> pathlib.Path:
  path.write_bytes(b"".join(map(encoded, records)))
  return path


def flipped(content: bytes, bit: int) -> bytes:
  changed = bytearray(content)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed)


@pytest.fixture
def shards(tmp_path):
  """A folder, the names of three files in it, the second empty, and the records in them."""
  generator = np.random.default_rng(0)
  contents = [
    [generator.bytes(int(size)) for size in generator.integers(0, 300, count)]
    for count in (7, 0, 40)
  ]
  names = [write_records(tmp_path / f"part-{i}", part).name for i, part in enumerate(contents)]
  return LocalFolder(tmp_path), names, [record for part in contents for record in part]


def open_reader(folder, names):
  return tfrecord.TFRecordReader(folder, tfrecord.build_index(folder, names))


def test_every_record_is_read_by_its_number_across_files(shards):
  folder, names, records = shards
  reader = open_reader(folder, names)
  assert len(reader) == len(records)
  assert [reader.read(i) for i in range(len(reader))] == records


def test_records_are_located_by_file_and_number(shards):
  folder, names, _ = shards
  reader = open_reader(folder, names)
  assert reader.locate(6) == (folder.locate(names[0]), 6)
  assert reader.locate(7) == (folder.locate(names[2]), 0)


def test_threads_read_what_one_thread_reads(shards):
  folder, names, records = shards
  reader = open_reader(folder, names)
  order = np.random.default_rng(1).integers(0, len(records), 2000).tolist()
  with concurrent.futures.ThreadPoolExecutor(16) as executor:
    assert list(executor.map(reader.read, order)) == [records[i] for i in order]


def test_reading_holds_no_file_open(shards):
  folder, names, _ = shards
  descriptors = pathlib.Path("/proc/self/fd")
  if not descriptors.exists():
    pytest.skip("needs /proc")
  reader = open_reader(folder, names)
  before = len(list(descriptors.iterdir()))
  for i in range(len(reader)):
    reader.read(i)
  assert len(list(descriptors.iterdir())) == before


def test_a_stored_index_comes_back_and_describes_its_files(shards, tmp_path):
  folder, names, records = shards
  index = tfrecord.build_index(folder, names)
  tfrecord.save_index(tmp_path / "made" / "index.npz", index)
  loaded = tfrecord.load_index(tmp_path / "made" / "index.npz", folder, names)
  assert loaded is not None
  np.testing.assert_array_equal(loaded.offsets, index.offsets)
  assert [tfrecord.TFRecordReader(folder, loaded).read(i) for i in (0, 20)] == [
    records[0],
    records[20],
  ]


def test_a_stale_absent_or_damaged_index_is_not_used(shards, tmp_path):
  folder, names, records = shards
  stored = tmp_path / "index.npz"
  assert tfrecord.load_index(stored, folder, names) is None
  tfrecord.save_index(stored, tfrecord.build_index(folder, names))
  assert tfrecord.load_index(stored, folder, names[:2]) is None
  other = (tmp_path / names[2]).rename(tmp_path / "other")
  assert tfrecord.load_index(stored, folder, [*names[:2], "other"]) is None
  other.rename(tmp_path / names[2])
  assert tfrecord.load_index(stored, folder, names) is not None
  write_records(tmp_path / names[0], records[:3])
  assert tfrecord.load_index(stored, folder, names) is None
  stored.write_bytes(stored.read_bytes()[:100])
  assert tfrecord.load_index(stored, folder, names) is None


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_file_that_is_cut_short_is_named(shards, cut):
  folder, names, _ = shards
  path = folder.path / names[2]
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(UserError, match=r"part-2 is cut short.* prepare the data set again"):
    tfrecord.build_index(folder, names)


def test_a_file_cut_short_after_indexing_raises_rather_than_giving_part_of_a_record(shards):
  folder, names, records = shards
  reader = open_reader(folder, names)
  path = folder.path / names[2]
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(OSError, match=r"record 39 of .*part-2 cannot be read: .*shorter"):
    reader.read(len(records) - 1)


class CountingFolder(LocalFolder):
  """Notes each range that is read."""

  def __init__(self, path):
    super().__init__(path)
    self.ranges = []

  def read(self, name, start, length):
    self.ranges.append((name, start, length))
    return super().read(name, start, length)


def test_records_that_follow_one_another_are_read_in_one_piece(shards):
  folder, names, records = shards
  counting = CountingFolder(folder.path)
  reader = open_reader(counting, names)
  assert reader.read_many(range(len(records))) == records
  assert [name for name, *_ in counting.ranges] == ["part-0", "part-2"]
  counting.ranges.clear()
  numbers = [30, 12, 11, 12, 6, 7, 3, 13]  # 6 and 7 lie in different files.
  assert reader.read_many(numbers) == [records[i] for i in numbers]
  assert len(counting.ranges) == 5
  assert reader.read_many([]) == []


def test_what_is_read_in_one_piece_is_bounded(shards, monkeypatch):
  folder, names, records = shards
  monkeypatch.setattr(tfrecord, "_READ_TOGETHER", 1000)
  counting = CountingFolder(folder.path)
  assert open_reader(counting, names).read_many(range(len(records))) == records
  assert max(length for *_, length in counting.ranges) <= 1000
  assert len(counting.ranges) < len(records) / 2


def test_an_error_of_one_record_costs_no_other(shards):
  folder, names, records = shards
  reader = open_reader(folder, names)
  path = folder.path / names[2]
  path.write_bytes(path.read_bytes()[:-20])
  results = reader.read_many(range(len(records)))
  assert results[:-1] == records[:-1]
  assert isinstance(results[-1], OSError)
  assert "record 39 of" in str(results[-1])


def test_checksums_are_those_of_the_standard():
  # RFC 3720, appendix B.4.
  assert masked_crc(b"123456789") == tfrecord.masked_crc(b"123456789")
  unmasked = tfrecord.masked_crc(b"123456789") - 0xA282EAD8 & 0xFFFFFFFF
  assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == 0xE3069283


def test_each_single_flipped_bit_is_noticed_in_its_record_and_no_other(tmp_path):
  records = [b"first", b"", b"the third record"]
  content = write_records(tmp_path / "part", records).read_bytes()
  folder = LocalFolder(tmp_path)
  reader = open_reader(folder, ["part"])
  ends = np.cumsum([len(encoded(record)) for record in records])
  for bit in range(8 * len(content)):
    (tmp_path / "part").write_bytes(flipped(content, bit))
    found, hit = reader.read_many(range(3)), int(np.searchsorted(ends, bit // 8, side="right"))
    start = ends[hit] - len(encoded(records[hit]))
    what = "length" if bit // 8 - start < 12 else "data"
    for i in range(3):
      if i != hit:
        assert found[i] == records[i]
    assert isinstance(found[hit], UndecodableError)
    assert str(found[hit]).startswith(f"its {what} does not fit")
    assert f"after byte {start}." in str(found[hit]) and "Copy the file again" in str(found[hit])
    with pytest.raises(UndecodableError):
      reader.read(hit)


def test_the_walk_notices_each_flipped_bit_of_a_length_or_its_checksum(tmp_path):
  records = [b"first", b"", b"the third record"]
  content = write_records(tmp_path / "part", records).read_bytes()
  starts = np.cumsum([0, *(len(encoded(record)) for record in records)])
  for i in range(3):
    for bit in range(8 * int(starts[i]), 8 * int(starts[i] + 12)):
      (tmp_path / "part").write_bytes(flipped(content, bit))
      place = rf"part is damaged at byte {starts[i]}: the length of record {i}.* prepare"
      with pytest.raises(UserError, match=place):
        tfrecord.build_index(LocalFolder(tmp_path), ["part"])


def test_a_number_out_of_range_is_an_index_error(shards):
  folder, names, records = shards
  reader = open_reader(folder, names)
  for number in (-1, len(records)):
    with pytest.raises(IndexError):
      reader.read(number)


def test_long_and_short_records_are_indexed_alike(tmp_path):
  generator = np.random.default_rng(0)
  sizes = [5, 40_000, 0, 3, 20_000, 16_384, 16_383, 9, 100_000, *generator.integers(0, 50, 3000)]
  records = [generator.bytes(int(size)) for size in sizes]
  write_records(tmp_path / "part", records)
  reader = open_reader(LocalFolder(tmp_path), ["part"])
  assert reader.read_many(range(len(records))) == records
  assert [reader.read(i) for i in range(20)] == records[:20]
