"""Tests of resnet_jax.data.prepare, which runs tfds's own builders."""

import io
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from made_sets import write_tfds_set

from resnet_jax.data import prepare as prepare_module
from resnet_jax.data import prepared
from resnet_jax.data.config import DataConfig
from resnet_jax.data.prepare import prepare
from resnet_jax.data.sources import open_dataset
from resnet_jax.data.statistics import load_statistics, statistics_path
from resnet_jax.errors import UserError

CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CLASSES = [f"class {label}" for label in range(10)]


def place_cifar_archive(data_dir: pathlib.Path, batches: list[tuple[np.ndarray, np.ndarray]]):
  """Puts CIFAR-10's archive, five training batches and a test batch, among tfds's downloads."""
  tfds = pytest.importorskip("tensorflow_datasets")
  from tensorflow_datasets.core.download import resource

  downloads = data_dir / "downloads"
  downloads.mkdir(parents=True)
  builder = tfds.builder("cifar10", data_dir=data_dir)
  info = builder.url_infos[CIFAR_URL]
  archive = type(builder.data_path)(downloads) / resource.get_dl_fname(CIFAR_URL, info.checksum)
  names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
  contents = {"batches.meta.txt": "\n".join(CLASSES).encode() + b"\n"}
  for name, (images, labels) in zip(names, batches, strict=True):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    contents[name] = np.concatenate([labels[:, None], planes], 1).astype(np.uint8).tobytes()
  with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
    for name, data in contents.items():
      member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  resource.write_info_file(CIFAR_URL, archive, "cifar10", "cifar-10-binary.tar.gz", info)


def written(path: pathlib.Path) -> tuple[int, int]:
  """Changes whenever a file is written or replaced."""
  return path.stat().st_mtime_ns, path.stat().st_ino


@pytest.fixture(scope="module")
def small_cifar(tmp_path_factory):
  """A data directory in which `prepare cifar10` has run on a made CIFAR-10, and its batches."""
  folder = tmp_path_factory.mktemp("cifar")
  generator = np.random.default_rng(0)
  batches = [
    (generator.integers(0, 256, (60, 32, 32, 3), np.uint8), generator.integers(0, 10, 60))
    for _ in range(6)
  ]
  place_cifar_archive(folder, batches)
  prepare("cifar10", str(folder))
  return folder, batches


def test_small_images_are_packed_in_the_order_of_the_official_batches(small_cifar):
  folder, batches = small_cifar
  with np.load(folder / "resnet_jax" / "cifar10" / "images.npz", allow_pickle=False) as packed:
    for i, name in ((0, "images"), (1, "labels")):
      train = np.concatenate([batch[i] for batch in batches[:5]])
      np.testing.assert_array_equal(packed[f"train_{name}"], train)
      np.testing.assert_array_equal(packed[f"test_{name}"], batches[5][i])
    assert packed["train_images"].dtype == np.uint8
    assert packed["train_labels"].dtype == np.int32
    assert packed["class_names"].tolist() == CLASSES


def test_packed_images_open_without_tfds(small_cifar, monkeypatch):
  folder, _ = small_cifar
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  dataset = open_dataset(DataConfig(dataset="cifar10", data_dir=str(folder), held_out=50), 0)
  assert {name: split.size for name, split in dataset.splits.items()} == {
    "train": 250,
    "validation": 50,
    "test": 60,
  }


def test_small_images_are_packed_from_a_bucket_too(small_cifar, tmp_path):
  fsspec = pytest.importorskip("fsspec")
  folder, _ = small_cifar
  address = "memory://small-cifar/data"
  fsspec.filesystem("memory").put(f"{folder}/cifar10/", f"{address}/cifar10/", recursive=True)
  prepare("cifar10", address, own_root=str(tmp_path))
  with (
    np.load(tmp_path / "cifar10" / "images.npz") as packed,
    np.load(folder / "resnet_jax" / "cifar10" / "images.npz") as local,
  ):
    for name in local.files:
      np.testing.assert_array_equal(packed[name], local[name])
  config = DataConfig(dataset="cifar10", data_dir=address, prepared_dir=str(tmp_path))
  assert open_dataset(config, 0).splits["train"].size == 300


def test_packing_again_keeps_the_file_and_needs_no_tfds(small_cifar, monkeypatch, capsys):
  folder, _ = small_cifar
  path = folder / "resnet_jax" / "cifar10" / "images.npz"
  before = written(path)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  prepare("cifar10", str(folder))
  assert written(path) == before
  assert f"Keeping {path}" in capsys.readouterr().out


@pytest.mark.long
def test_cifar10_is_packed_in_the_official_order(test_data, tmp_path, monkeypatch):
  folder = test_data / "cifar10"
  if not (folder / "cifar10_packed.py").exists():
    pytest.skip(f"no CIFAR-10 at {folder}")
  monkeypatch.syspath_prepend(folder)
  monkeypatch.setattr(sys, "dont_write_bytecode", True)
  import cifar10_packed

  official = cifar10_packed.load()
  images, labels = official["train_images"], official["train_labels"]
  batches = list(zip(np.split(images, 5), np.split(labels, 5), strict=True))
  place_cifar_archive(tmp_path, [*batches, (official["test_images"], official["test_labels"])])
  prepare("cifar10", str(tmp_path))
  with np.load(tmp_path / "resnet_jax" / "cifar10" / "images.npz", allow_pickle=False) as packed:
    for name, want in official.items():
      np.testing.assert_array_equal(packed[name], want)


def test_imagenet_gets_an_index_and_the_statistics_of_its_training_split(imagenet_dir):
  folder = prepared.prepared_dir(imagenet_dir, "imagenet2012")
  assert sorted(path.name for path in folder.iterdir()) == [
    "index-train.npz",
    "index-validation.npz",
    "statistics.npz",
  ]
  statistics = load_statistics(folder / "statistics.npz")
  assert (statistics.examples, statistics.image_size, statistics.short_side) == (60, 224, 256)


def test_array_records_need_no_index(sharded_dirs, tmp_path, capsys):
  folder = shutil.copytree(sharded_dirs["array_record"], tmp_path / "copy")
  prepare("imagenet2012", str(folder), max_statistics_examples=4)
  ours = prepared.prepared_dir(folder, "imagenet2012")
  assert [path.name for path in ours.iterdir()] == ["statistics.npz"]
  # What tfds had prepared in another format is kept, and said to be.
  assert "prepared as array_record, not as tfrecord" in capsys.readouterr().out


def test_preparing_again_keeps_all_and_needs_no_archives(imagenet_dir, capsys):
  files = [path for path in imagenet_dir.rglob("*") if path.is_file()]
  before = [written(path) for path in files]
  prepare("imagenet2012", str(imagenet_dir))
  assert [written(path) for path in files] == before
  assert capsys.readouterr().out.count("Keeping") == 4


def test_other_settings_replace_the_statistics_and_say_so(sharded_dirs, tmp_path, capsys):
  folder = shutil.copytree(sharded_dirs["tfrecord"], tmp_path / "copy")
  for image_size in (224, 160):
    prepare("imagenet2012", str(folder), image_size=image_size, max_statistics_examples=4)
  assert "Replacing" in capsys.readouterr().out
  assert load_statistics(statistics_path(str(folder), "imagenet2012")).image_size == 160


def test_an_interrupted_preparation_is_finished_by_running_it_again(
  sharded_dirs, tmp_path, monkeypatch
):
  folder = shutil.copytree(sharded_dirs["tfrecord"], tmp_path / "copy")
  ours = prepared.prepared_dir(folder, "imagenet2012")

  def interrupt(file, *arguments, **arrays):
    file.write(b"half of it")
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
      prepare("imagenet2012", str(folder), max_statistics_examples=4)
  assert list(ours.iterdir()) == []
  prepare("imagenet2012", str(folder), max_statistics_examples=4)
  assert len(list(ours.iterdir())) == 3


@pytest.mark.parametrize(
  ("file_format", "moment"),
  [
    ("tfrecord", "writing 0"),  # the first index
    ("tfrecord", "writing 2"),  # the statistics
    ("array_record", "averaging"),
    # Nothing is being written then, as above.
    pytest.param("tfrecord", "walking", marks=pytest.mark.long),
    pytest.param("tfrecord", "averaging", marks=pytest.mark.long),
    # The statistics, as with TFRecords: there is no index.
    pytest.param("array_record", "writing 0", marks=pytest.mark.long),
  ],
)
def test_a_preparation_that_is_killed_is_finished_by_running_it_again(
  tmp_path, file_format, moment
):
  pytest.importorskip("tensorflow_datasets")
  write_tfds_set(tmp_path, "shapes", {"train": 30, "test": 3}, file_format=file_format)
  code = f"""
import os, signal, sys
import numpy as np
from resnet_jax.data import prepare as module, statistics, tfrecord
moment = {moment!r}
def kill(*arguments, **options):
  os.kill(os.getpid(), signal.SIGKILL)
if moment == "walking":
  tfrecord._HEADER = type("Header", (), dict(size=12, unpack_from=kill))
elif moment == "averaging":
  statistics.decode_window = kill
else:
  savez, calls = np.savez, []
  def killed(file, *arguments, **arrays):
    if len(calls) == int(moment.split()[1]):
      file.write(b"half of it")
      file.flush()
      kill()
    calls.append(file)
    savez(file, *arguments, **arrays)
  np.savez = killed
module.prepare("shapes", {str(tmp_path)!r}, image_size=16, short_side=18)
"""
  killed = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  ours = prepared.prepared_dir(tmp_path, "shapes")
  assert not (ours / "statistics.npz").exists()
  prepare("shapes", str(tmp_path), image_size=16, short_side=18)
  names = {path.name for path in ours.iterdir() if not path.name.startswith(".")}
  indexes = {"index-train.npz", "index-test.npz"} if file_format == "tfrecord" else set()
  assert names == {"statistics.npz", *indexes}
  assert load_statistics(ours / "statistics.npz").examples == 30
  prepare("shapes", str(tmp_path), image_size=16, short_side=18)


def test_archives_that_are_missing_are_named_with_where_to_put_them(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError) as error:
    prepare("imagenet2012", str(tmp_path))
  message = str(error.value)
  assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message
  assert str(tmp_path / "downloads" / "manual") in message
  (tmp_path / "ILSVRC2012_img_train.tar").touch()
  with pytest.raises(UserError, match=r"put ILSVRC2012_img_val\.tar") as error:
    prepare("imagenet2012", str(tmp_path), manual_dir=str(tmp_path))
  assert "img_train" not in str(error.value)


def test_without_a_network_the_message_comes_at_once_and_says_what_to_do(tmp_path, monkeypatch):
  pytest.importorskip("tensorflow_datasets")

  def unreachable(request, timeout):
    raise urllib.error.URLError("Name or service not known")

  monkeypatch.setattr(urllib.request, "urlopen", unreachable)
  start = time.monotonic()
  with pytest.raises(UserError, match="Name or service not known") as error:
    prepare("cifar10", str(tmp_path))
  assert time.monotonic() - start < 30
  message = str(error.value)
  assert message.startswith(CIFAR_URL)
  assert f"put that file into {tmp_path / 'downloads' / 'manual'}" in message
  assert "\n" not in message


def test_a_file_put_by_hand_is_taken_and_checked_without_a_network(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  manual = tmp_path / "downloads" / "manual"
  manual.mkdir(parents=True)
  (manual / "cifar-10-binary.tar.gz").write_text("not the archive")
  with pytest.raises(UserError, match="wrong checksum") as error:
    prepare("cifar10", str(tmp_path))
  assert str(manual) in str(error.value)
  assert "\n" not in str(error.value)


def test_a_damaged_archive_costs_a_message(imagenet_tars, tmp_path):
  pytest.importorskip("tensorflow_datasets")
  for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
    (tmp_path / name).write_bytes((imagenet_tars / name).read_bytes()[:300_000])
  with pytest.raises(UserError, match="could not prepare imagenet2012"):
    prepare("imagenet2012", str(tmp_path / "data"), manual_dir=str(tmp_path))
  assert not prepared.prepared_dir(tmp_path / "data", "imagenet2012").exists()


@pytest.mark.parametrize("dataset", ["digits", "synthetic"])
def test_sets_that_need_nothing_get_nothing(dataset, tmp_path, capsys):
  prepare(dataset, str(tmp_path))
  assert "needs no preparation" in capsys.readouterr().out
  assert list(tmp_path.iterdir()) == []


def test_an_unknown_set_is_answered_with_those_that_are_known(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError, match="choose one of digits, cifar10, cifar100, imagenet2012"):
    prepare("imagenet", str(tmp_path))


def test_a_crop_larger_than_the_short_side_is_refused(tmp_path):
  with pytest.raises(UserError, match="does not fit"):
    prepare("imagenet2012", str(tmp_path), image_size=320)


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
  with prepare_module._Progress("Packing", 3, seconds=0) as progress:
    for _ in range(3):
      time.sleep(0.002)
      progress(1)
  printed = capsys.readouterr()
  assert printed.out.splitlines() == ["Packing: 3 images ...", "  1 of 3", "  2 of 3", "  3 of 3"]
  assert printed.err == ""


def test_the_data_directory_is_that_of_tfds_unless_given(monkeypatch, tmp_path):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  assert prepared.resolve_data_dir(None) == tmp_path
  monkeypatch.delenv("TFDS_DATA_DIR")
  assert prepared.resolve_data_dir(None) == pathlib.Path.home() / "tensorflow_datasets"
  assert prepared.prepared_dir("d", "cifar10") == pathlib.Path("d/resnet_jax/cifar10")
  assert prepared.prepared_dir("d", "cifar10", "own") == pathlib.Path("own/cifar10")


def test_a_bucket_is_no_local_folder(monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
  with pytest.raises(UserError, match="not a local folder"):
    prepared.resolve_data_dir(None)
  assert prepared.prepare_command(None, "x") == "resnet-jax prepare x --data-dir gs://bucket/data"
