"""Data in a bucket: read by ranges, many at once, and again where that fails."""

import concurrent.futures
import dataclasses
import sys
import time
import uuid

import numpy as np
import pytest
from made_sets import write_tfds_set
from range_server import serve

from resnet_jax.data import (
  DataConfig,
  StreamingConfig,
  open_dataset,
  prepared,
  remote_filesystem,
  remote_folder,
  training_batches,
)
from resnet_jax.data.dataset import fingerprint
from resnet_jax.data.prepare import prepare
from resnet_jax.data.remote_folder import RemoteFolder
from resnet_jax.data.split_sources import open_sources, split_sources
from resnet_jax.data.tfds_source import index_path
from resnet_jax.errors import UserError

SMALL = StreamingConfig(
  image_size=16, short_side_min=18, short_side_max=24, short_side_evaluation=18, decode_threads=2
)
TRAIN = 60


@pytest.fixture(scope="module")
def local(tmp_path_factory):
  """A data directory with a prepared set `shapes`, without files of ours."""
  pytest.importorskip("tensorflow_datasets")
  folder = tmp_path_factory.mktemp("shapes")
  write_tfds_set(folder, "shapes", {"train": TRAIN, "test": 8})
  write_tfds_set(folder, "arrays", {"train": 8}, file_format="array_record")
  return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
  for module in (remote_filesystem, remote_folder):
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01, 0.01))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bucket(local):
  """The same in fsspec's memory, at an address of its own."""
  fsspec = pytest.importorskip("fsspec")
  address = f"memory://{uuid.uuid4().hex}/data"
  fsspec.filesystem("memory").put(f"{local}/", f"{address}/", recursive=True)
  return address


@pytest.fixture
def server(local):
  """The same behind a server of this machine."""
  pytest.importorskip("fsspec")
  pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, of resnet_jax[bucket]")
  with serve(local) as running:
    yield running


def config(address, name="shapes", **changes):
  return DataConfig(name, str(address), streaming=SMALL, **changes)


def get_ready(address, name="shapes", **options):
  prepare(name, str(address), image_size=16, short_side=18, **options)


def test_a_bucket_opens_as_its_local_copy_does(bucket, local, tmp_path):
  own = tmp_path / "own"
  get_ready(local, own_root=str(own))
  get_ready(bucket)
  ours = open_dataset(config(local, prepared_dir=str(own), held_out=9), 3)
  theirs = open_dataset(config(bucket, held_out=9), 3)
  assert {name: split.size for name, split in theirs.splits.items()} == {
    "train": TRAIN - 9,
    "validation": 9,
    "test": 8,
  }
  for name, split in ours.splits.items():
    numbers = np.arange(split.size)
    want, got = (each.fetch(numbers * 0, numbers) for each in (split, theirs.splits[name]))
    for field, value in want.items():
      np.testing.assert_array_equal(got[field], value)
  # So a run may go on where its data lies elsewhere.
  assert fingerprint(ours) == fingerprint(theirs)


def test_blocks_that_stay_together_are_read_together(server, local, tmp_path, caplog):
  get_ready(local, own_root=str(tmp_path))

  def a_batch(address, block):
    streaming = dataclasses.replace(SMALL, shuffle_block=block)
    where = DataConfig("shapes", str(address), streaming=streaming, prepared_dir=str(tmp_path))
    split = open_dataset(where, 0).splits["train"]
    server.requests.clear()
    stream = training_batches(dataclasses.replace(split, examples_ahead=0), 0, 48, 0)
    return next(stream), [wanted for _, wanted in server.requests if wanted]

  for block, most in ((1, 48), (16, 8)):
    batch, ranges = a_batch(server.address, block)
    want, _ = a_batch(local, block)
    for name, array in want.items():
      np.testing.assert_array_equal(batch[name], array)
    assert 48 / block <= len(ranges) <= most
  hints = [r.getMessage() for r in caplog.records if "shuffle_block=16" in r.getMessage()]
  assert len(hints) == 1


def test_prepared_files_of_a_bucket_lie_in_the_cache_unless_told_otherwise(bucket, tmp_path):
  get_ready(bucket)
  folder = prepared.prepared_dir(bucket, "shapes")
  assert folder.is_relative_to(tmp_path / "cache" / "resnet_jax" / "prepared")
  names = ["index-test.npz", "index-train.npz", "statistics.npz"]
  assert sorted(path.name for path in folder.iterdir()) == names
  assert prepared.prepared_dir("gs://a/b", "x") != prepared.prepared_dir("gs://a-b", "x")
  assert prepared.prepared_dir("gs://a/b/", "x") == prepared.prepared_dir("gs://a/b", "x")
  own = tmp_path / "own"
  get_ready(bucket, own_root=str(own))
  assert sorted(path.name for path in (own / "shapes").iterdir()) == names
  assert index_path("shapes", "train", bucket, str(own)).exists()


def test_training_on_a_bucket_that_is_not_prepared_says_the_command(bucket, tmp_path):
  command = f"run `resnet-jax prepare shapes --data-dir {bucket} --prepared-dir {tmp_path} "
  with pytest.raises(UserError, match=command):
    open_dataset(config(bucket, prepared_dir=str(tmp_path)), 0)


def test_an_index_is_stored_and_used_and_a_stale_one_is_made_anew(bucket, capsys):
  import fsspec

  get_ready(bucket)
  get_ready(bucket)
  assert capsys.readouterr().out.count("Keeping") == 5  # The set, twice; two indexes, statistics.
  filesystem = fsspec.filesystem("memory")
  [first, *_] = sorted(filesystem.glob(f"{bucket}/shapes/1.0.0/*train*"))
  stored = index_path("shapes", "train", bucket)
  with np.load(stored) as arrays:
    changed = dict(arrays)
  changed["sizes"] = changed["sizes"] + 1
  prepared.write_npz(stored, **changed)
  get_ready(bucket)
  with np.load(stored) as arrays:
    assert arrays["sizes"][0] == filesystem.size(first)


def test_examples_over_http_are_those_of_the_disk(server, local):
  want = open_sources(config(local))["train"]
  source = open_sources(config(server.address))["train"]
  numbers = np.random.default_rng(0).permutation(TRAIN).tolist()
  assert source.read_many(numbers) == [want.read(i) for i in numbers]
  assert source.read(7) == want.read(7)
  assert source.locate(0).startswith(f"record 0 of {server.address}/shapes/1.0.0/shapes-train")
  with concurrent.futures.ThreadPoolExecutor(8) as executor:
    assert list(executor.map(source.read, numbers)) == [want.read(i) for i in numbers]


def test_records_in_a_row_are_one_request_and_others_are_under_way_at_once(server):
  source = open_sources(config(server.address))["train"]
  server.requests.clear()
  source.read_many(range(TRAIN))
  assert len(server.requests) == 4  # One a file.
  server.requests.clear()
  server.most_at_once, server.delay = 0, 0.05
  start = time.monotonic()
  source.read_many(range(0, TRAIN, 2))
  assert len(server.requests) == TRAIN // 2
  assert server.most_at_once > 8
  assert time.monotonic() - start < 0.05 * TRAIN / 4


def test_an_index_is_built_with_the_files_at_once(server):
  server.delay = 0.02
  get_ready(server.address)
  assert server.most_at_once >= 4
  server.requests.clear()
  parts = split_sources(config(server.address))
  assert len(parts["train"][0]) == TRAIN
  # The test split is asked whether it has labels; nothing else is read again but the description.
  asked = [path for path, wanted in server.requests if wanted and "tfrecord" in path]
  assert all("test" in path for path in asked)


def test_a_read_that_fails_for_a_while_is_repeated(server, local):
  source = open_sources(config(server.address))["train"]
  want = open_sources(config(local))["train"]
  server.failures = 3
  assert source.read(3) == want.read(3)
  server.failures = 3
  assert source.read_many(range(9)) == want.read_many(range(9))


def test_a_read_that_keeps_failing_names_file_and_record_in_one_line(server):
  source = open_sources(config(server.address))["train"]
  server.requests.clear()
  server.failures = 1000
  with pytest.raises(OSError, match=r"record 3 of http://.*train.*00000-of-00004.*503") as error:
    source.read(3)
  assert "\n" not in str(error.value)
  assert len(server.requests) == 4


def test_an_error_of_one_file_costs_no_record_of_another(bucket, local):
  import fsspec

  source = open_sources(config(bucket))["train"]
  want = open_sources(config(local))["train"]
  fsspec.filesystem("memory").rm(f"{bucket}/shapes/1.0.0/shapes-train.tfrecord-00001-of-00004")
  results = source.read_many(range(TRAIN))
  lost = [i for i, result in enumerate(results) if isinstance(result, OSError)]
  assert lost == list(range(15, 30))
  assert "record 0 of" in str(results[15])
  assert "is missing" in str(results[15])
  assert all(results[i] == want.read(i) for i in range(TRAIN) if i not in lost)


class Flaky:
  """A file system whose every read fails a few times, with an error of the library's own."""

  class LibraryError(Exception):
    pass

  def __init__(self, data, failures):
    self.data, self.failures, self.reads = data, failures, 0

  def cat_ranges(self, paths, starts, ends, on_error):
    del paths, on_error
    self.reads += 1
    if self.reads <= self.failures:
      return [self.LibraryError("try later\nplease")] * len(starts)
    return [self.data[start:end] for start, end in zip(starts, ends, strict=True)]


def test_errors_of_any_class_are_repeated_and_end_as_an_oserror():
  folder = RemoteFolder("any://where", Flaky(b"0123456789", 3))
  assert folder.read("file", 2, 3) == b"234"
  flaky = Flaky(b"0123456789", 100)
  with pytest.raises(OSError, match=r"any://where/file cannot be read \(LibraryError: try later\)"):
    RemoteFolder("any://where", flaky).read("file", 2, 3)
  assert flaky.reads == 4


def test_what_is_missing_or_forbidden_is_asked_for_once():
  class Denying(Flaky):
    LibraryError = PermissionError

  denying = Denying(b"", 100)
  with pytest.raises(PermissionError, match="any://where/file may not be read"):
    RemoteFolder("any://where", denying).read("file", 0, 1)
  assert denying.reads == 1


def test_a_file_that_ends_early_is_an_error_and_nothing_at_all_is_read_of_an_empty_range():
  flaky = Flaky(b"0123456789", 0)
  folder = RemoteFolder("any://where", flaky)
  with pytest.raises(OSError, match="gave 2 bytes instead of 5 from 8 on"):
    folder.read("file", 8, 5)
  reads = flaky.reads
  assert folder.read("file", 3, 0) == b""
  assert flaky.reads == reads


def test_array_records_in_a_bucket_are_refused_with_a_way_out(bucket):
  with pytest.raises(
    UserError, match=r"mount the bucket \(gcsfuse\), or prepare the set as TFRecord"
  ):
    open_sources(config(bucket, "arrays"))


def test_a_bucket_without_the_set_says_how_to_get_it_there(bucket):
  with pytest.raises(UserError, match=r"mnist is not prepared in memory://.* with a local DIR"):
    prepare("mnist", bucket)


def test_an_unknown_kind_of_address_or_one_that_needs_a_library_costs_a_message(monkeypatch):
  pytest.importorskip("fsspec")
  with pytest.raises(UserError, match=r"nosuch://bucket cannot be opened \(ValueError"):
    RemoteFolder("nosuch://bucket")
  monkeypatch.setitem(sys.modules, "fsspec", None)
  with pytest.raises(UserError, match=r'pip install "resnet_jax\[bucket\]"'):
    RemoteFolder("gs://bucket")


def test_a_store_that_does_not_answer_costs_a_message():
  pytest.importorskip("fsspec")
  pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, of resnet_jax[bucket]")
  with pytest.raises(UserError, match=r"does not answer .*check the address, the network") as error:
    RemoteFolder("http://127.0.0.1:9/data").names()
  assert "\n" not in str(error.value)


def test_folders_in_a_bucket_are_refused():
  with pytest.raises(UserError, match="read from local disks alone; mount or copy it"):
    open_dataset(config("gs://bucket/pictures", "folder"), 0)
