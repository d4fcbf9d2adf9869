"""Tests of resnet_jax.data.tfrecord."""

import concurrent.futures
import pathlib
import struct

import numpy as np
import pytest

from resnet_jax.data import tfrecord
from resnet_jax.errors import UserError


def write_records(path: pathlib.Path, records: list[bytes]) -> pathlib.Path:
  with path.open("wb") as file:
    for record in records:
      file.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
  return path


@pytest.fixture
def shards(tmp_path):
  """Three files, the second empty, and the records in them."""
  generator = np.random.default_rng(0)
  contents = [
    [generator.bytes(int(size)) for size in generator.integers(0, 300, count)]
    for count in (7, 0, 40)
  ]
  paths = [write_records(tmp_path / f"part-{i}", part) for i, part in enumerate(contents)]
  return paths, [record for part in contents for record in part]


def test_every_record_is_read_by_its_number_across_files(shards):
  paths, records = shards
  reader = tfrecord.TFRecordReader(paths, tfrecord.build_index(paths))
  assert len(reader) == len(records)
  assert [reader.read(i) for i in range(len(reader))] == records


def test_records_are_located_by_file_and_number(shards):
  paths, _ = shards
  reader = tfrecord.TFRecordReader(paths, tfrecord.build_index(paths))
  assert reader.locate(6) == (paths[0], 6)
  assert reader.locate(7) == (paths[2], 0)


def test_threads_read_what_one_thread_reads(shards):
  paths, records = shards
  reader = tfrecord.TFRecordReader(paths, tfrecord.build_index(paths))
  order = np.random.default_rng(1).integers(0, len(records), 2000).tolist()
  with concurrent.futures.ThreadPoolExecutor(16) as executor:
    assert list(executor.map(reader.read, order)) == [records[i] for i in order]


def test_reading_holds_no_file_open(shards):
  paths, _ = shards
  descriptors = pathlib.Path("/proc/self/fd")
  if not descriptors.exists():
    pytest.skip("needs /proc")
  reader = tfrecord.TFRecordReader(paths, tfrecord.build_index(paths))
  before = len(list(descriptors.iterdir()))
  for i in range(len(reader)):
    reader.read(i)
  assert len(list(descriptors.iterdir())) == before


def test_a_stored_index_comes_back_and_describes_its_files(shards, tmp_path):
  paths, records = shards
  index = tfrecord.build_index(paths)
  tfrecord.save_index(tmp_path / "made" / "index.npz", index)
  loaded = tfrecord.load_index(tmp_path / "made" / "index.npz", paths)
  assert loaded is not None
  np.testing.assert_array_equal(loaded.offsets, index.offsets)
  assert [tfrecord.TFRecordReader(paths, loaded).read(i) for i in (0, 20)] == [
    records[0],
    records[20],
  ]


def test_a_stale_absent_or_damaged_index_is_not_used(shards, tmp_path):
  paths, records = shards
  stored = tmp_path / "index.npz"
  assert tfrecord.load_index(stored, paths) is None
  tfrecord.save_index(stored, tfrecord.build_index(paths))
  assert tfrecord.load_index(stored, paths[:2]) is None
  renamed = [*paths[:2], paths[2].rename(tmp_path / "other")]
  assert tfrecord.load_index(stored, renamed) is None
  renamed[2].rename(paths[2])
  assert tfrecord.load_index(stored, paths) is not None
  write_records(paths[0], records[:3])
  assert tfrecord.load_index(stored, paths) is None
  stored.write_bytes(stored.read_bytes()[:100])
  assert tfrecord.load_index(stored, paths) is None


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_file_that_is_cut_short_is_named(shards, cut):
  paths, _ = shards
  paths[2].write_bytes(paths[2].read_bytes()[:-cut])
  with pytest.raises(UserError, match="part-2 is damaged or cut short"):
    tfrecord.build_index(paths)


def test_a_file_cut_short_after_indexing_raises_rather_than_giving_part_of_a_record(shards):
  paths, records = shards
  reader = tfrecord.TFRecordReader(paths, tfrecord.build_index(paths))
  paths[2].write_bytes(paths[2].read_bytes()[:-20])
  with pytest.raises(OSError, match="shorter"):
    reader.read(len(records) - 1)
