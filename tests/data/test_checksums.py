"""Flipped bits in the TFRecords of a prepared set: noticed wherever it is read from, and named."""

import contextlib
import functools
import logging
import uuid

import numpy as np
import pytest
from made_sets import write_tfds_set
from range_server import serve

from resnet_jax.data import DataConfig, StreamingConfig, open_dataset
from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.prepare import prepare
from resnet_jax.data.split_sources import open_sources
from resnet_jax.data.tfds_source import TfdsSource
from resnet_jax.errors import UserError

TRAIN, FLIPS = 24, 60
SMALL = StreamingConfig(
  image_size=16, short_side_min=18, short_side_max=24, short_side_evaluation=18, decode_threads=2
)


@pytest.fixture
def folder(tmp_path):
  """A data directory with a prepared set `shapes`, in two files, and the statistics of it."""
  pytest.importorskip("tensorflow_datasets")
  write_tfds_set(tmp_path / "data", "shapes", {"train": TRAIN, "test": 3}, num_shards=2)
  return tmp_path / "data"


@contextlib.contextmanager
def on_disk(folder):
  """The address of the folder, and what writes a file of it anew."""
  yield str(folder), lambda path, content: path.write_bytes(content)


@contextlib.contextmanager
def in_memory(folder):
  fsspec = pytest.importorskip("fsspec")
  address = f"memory://{uuid.uuid4().hex}/data"
  memory = fsspec.filesystem("memory")
  memory.put(f"{folder}/", f"{address}/", recursive=True)

  def write(path, content):
    memory.pipe_file(f"{address}/{path.relative_to(folder)}", content)

  yield address, write


@contextlib.contextmanager
def behind_http(folder):
  pytest.importorskip("fsspec")
  pytest.importorskip("aiohttp")
  with serve(folder) as server:
    yield server.address, lambda path, content: path.write_bytes(content)


def shards(folder):
  return sorted(folder.rglob("shapes-train.tfrecord*"))


def flipped(content, bit):
  changed = bytearray(content)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("store", [on_disk, in_memory, behind_http])
def test_each_of_many_random_flips_costs_one_record_which_is_named(
  folder, store, together, tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  generator = np.random.default_rng(0)
  with store(folder) as (address, write):
    source = open_sources(DataConfig("shapes", address, streaming=SMALL))["train"]
    want = source.read_many(range(TRAIN))
    for _ in range(FLIPS if store is on_disk else FLIPS // 6):
      path = shards(folder)[int(generator.integers(2))]
      content = path.read_bytes()
      write(path, flipped(content, int(generator.integers(8 * len(content)))))
      if together:
        found = source.read_many(range(TRAIN))
      else:
        found = [one for i in range(TRAIN) for one in source.read_many([i])]
      write(path, content)
      bad = [i for i in range(TRAIN) if found[i] != want[i]]
      assert len(bad) == 1
      assert isinstance(found[bad[0]], UndecodableError)
      assert "does not fit the checksum" in str(found[bad[0]])
      assert path.name in source.locate(bad[0])


def test_a_damaged_record_trains_with_weight_zero_and_a_warning_or_stops_the_run(folder, caplog):
  prepare("shapes", str(folder), image_size=16, short_side=18)
  first = shards(folder)[0]
  first.write_bytes(flipped(first.read_bytes(), 8 * 500))
  fetch = functools.partial(np.arange, dtype=np.int32)
  opened = open_dataset(DataConfig("shapes", str(folder), streaming=SMALL), 0)
  with caplog.at_level(logging.WARNING):
    batch = opened.splits["train"].fetch(np.zeros(4, int), fetch(4))
  assert batch["weight"].tolist() == [0, 1, 1, 1]
  assert not batch["image"][0].any()
  (warning,) = [record.getMessage() for record in caplog.records]
  assert f"record 0 of {first}" in warning and "after byte 0." in warning
  assert "Copy the file again" in warning and "1 so far" in warning
  stop = StreamingConfig(**{**vars(SMALL), "undecodable": "stop"})
  opened = open_dataset(DataConfig("shapes", str(folder), streaming=stop), 0)
  with pytest.raises(UserError, match=r"record 0 of .*its data does not fit the checksum"):
    opened.splits["train"].fetch(np.zeros(4, int), fetch(4))


def test_preparing_names_a_damaged_record_and_refuses_a_damaged_length(folder, caplog, capsys):
  first = shards(folder)[0]
  whole = first.read_bytes()
  first.write_bytes(flipped(whole, 3))
  with pytest.raises(UserError, match=rf"{first} is damaged at byte 0: the length of record 0"):
    prepare("shapes", str(folder), image_size=16, short_side=18)
  first.write_bytes(flipped(whole, 8 * 500))
  with caplog.at_level(logging.WARNING):
    prepare("shapes", str(folder), image_size=16, short_side=18)
  assert f"the mean of {TRAIN - 1} images, 1 records left out" in capsys.readouterr().out
  assert f"record 0 of {first} is left out" in caplog.text


def test_a_flipped_bit_of_an_array_record_costs_that_record_which_is_named(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  pytest.importorskip("array_record")
  write_tfds_set(tmp_path, "shapes", {"train": 6}, num_shards=1, file_format="array_record")
  (path,) = tmp_path.rglob("*.array_record*")
  whole = path.read_bytes()
  want = TfdsSource("shapes", "train", str(tmp_path)).read_many(range(6))
  for i, (image, _) in enumerate(want):
    path.write_bytes(flipped(whole, 8 * (whole.index(image) + len(image) // 2)))
    source = TfdsSource("shapes", "train", str(tmp_path))
    found = source.read_many(range(6))
    assert [j for j in range(6) if found[j] != want[j]] == [i]
    assert isinstance(found[i], UndecodableError)
    assert "the file is damaged: " in str(found[i]) and "Copy the file again" in str(found[i])
    assert source.locate(i) == f"record {i} of {path}"
    with pytest.raises(UndecodableError):
      source.read(i)
  path.write_bytes(b"x" * len(whole))
  with pytest.raises(UndecodableError, match=r"the file is damaged: .*Copy the file again"):
    TfdsSource("shapes", "train", str(tmp_path)).read(0)
  source = TfdsSource("shapes", "train", str(tmp_path))
  path.unlink()
  with pytest.raises(OSError, match=rf"{path} cannot be read: .*No such file"):
    source.read(0)
