"""Tests of resnet_jax.data.tfds_source, against tensorflow-datasets' own reading."""

import concurrent.futures
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from resnet_jax.data import tfds_source, tfrecord
from resnet_jax.data.tfds_source import TfdsSource
from resnet_jax.errors import UserError


def copy_of(folder, to):
  return shutil.copytree(folder, to / "copy")


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_examples_are_those_of_tfds_in_the_order_of_its_files(sharded_dirs, file_format, split):
  tfds = pytest.importorskip("tensorflow_datasets")
  folder = sharded_dirs[file_format]
  source = TfdsSource("imagenet2012", split, folder)
  builder = tfds.builder("imagenet2012", data_dir=folder)
  decoders = {"image": tfds.decode.SkipDecoding()}
  if file_format == "tfrecord":  # Read by TensorFlow.
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    truth = builder.as_dataset(split, decoders=decoders, read_config=in_order).as_numpy_iterator()
  else:
    truth = builder.as_data_source(split, decoders=decoders)
  count = 0
  for i, example in enumerate(truth):
    assert source.read(i) == (example["image"], example["label"])
    assert source.features(i)["file_name"].bytes_list.value[0] == example["file_name"]
    count += 1
  assert count == len(source) == {"train": 60, "validation": 30}[split]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_threads_read_what_one_thread_reads(sharded_dirs, file_format, monkeypatch):
  monkeypatch.setattr(tfds_source, "_OPEN_FILES", 1)  # Files are closed while others read them.
  source = TfdsSource("imagenet2012", "train", sharded_dirs[file_format])
  alone = [source.read(i) for i in range(len(source))]
  order = np.random.default_rng(0).integers(0, len(source), 1000).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as executor:
    assert list(executor.map(source.read, order)) == [alone[i] for i in order]


def test_class_names_are_the_wnids_in_the_order_of_the_labels(imagenet_dir, test_data):
  source = TfdsSource("imagenet2012", "train", imagenet_dir)
  synsets = (test_data / "imagenet_samples" / "synsets.txt").read_text().split()
  assert source.class_names == tuple(synsets)
  for i in range(len(source)):
    file_name = source.features(i)["file_name"].bytes_list.value[0].decode()
    assert source.class_names[source.read(i)[1]] == file_name.split("_")[0]


def test_a_stored_index_is_used_and_a_stale_one_is_not(imagenet_dir, tmp_path, monkeypatch):
  folder = copy_of(imagenet_dir, tmp_path)
  want = TfdsSource("imagenet2012", "train", folder).read(3)
  build, built = tfrecord.build_index, []
  monkeypatch.setattr(tfrecord, "build_index", lambda *files: built.append(files) or build(*files))
  assert TfdsSource("imagenet2012", "train", folder).read(3) == want
  assert not built
  stored = tfds_source.index_path("imagenet2012", "train", folder)
  shutil.copy(tfds_source.index_path("imagenet2012", "validation", folder), stored)
  assert TfdsSource("imagenet2012", "train", folder).read(3) == want
  assert len(built) == 1


def test_reading_writes_nothing(sharded_dirs):
  folder = sharded_dirs["tfrecord"]
  before = sorted(folder.rglob("*"))
  TfdsSource("imagenet2012", "train", folder).read(0)
  assert sorted(folder.rglob("*")) == before


def test_a_version_that_an_older_tfds_prepared_is_found(sharded_dirs, tmp_path):
  folder = copy_of(sharded_dirs["tfrecord"], tmp_path)
  old = (folder / "imagenet2012" / "5.1.0").rename(folder / "imagenet2012" / "5.0.0")
  info = json.loads((old / "dataset_info.json").read_text())
  (old / "dataset_info.json").write_text(json.dumps(info | {"version": "5.0.0"}))
  assert len(TfdsSource("imagenet2012", "train", folder)) == 60


def test_a_missing_file_is_named(sharded_dirs, tmp_path):
  folder = copy_of(sharded_dirs["tfrecord"], tmp_path)
  next(folder.rglob("*train.tfrecord-00002*")).unlink()
  with pytest.raises(UserError, match="tfrecord-00002-of-00004 is missing"):
    TfdsSource("imagenet2012", "train", folder)


def test_what_is_not_prepared_costs_a_message_with_the_command(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  command = f"`resnet-jax prepare imagenet2012 --data-dir {tmp_path}`"
  with pytest.raises(UserError, match="imagenet2012 is not prepared") as error:
    TfdsSource("imagenet2012", "train", str(tmp_path))
  assert command in str(error.value)


def test_an_unknown_split_is_named(imagenet_dir):
  with pytest.raises(UserError, match="no split 'test'"):
    TfdsSource("imagenet2012", "test", imagenet_dir)


def test_without_tfds_the_message_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with pytest.raises(UserError, match=r'pip install "resnet_jax\[tfds\]"'):
    TfdsSource("imagenet2012", "train", str(tmp_path))


def test_importing_needs_no_tfds_and_reading_no_tensorflow(imagenet_dir):
  code = f"""
import sys
import resnet_jax.data.prepare, resnet_jax.data.streaming
assert not {{"tensorflow", "tensorflow_datasets"}} & set(sys.modules)
from resnet_jax.data.tfds_source import TfdsSource
TfdsSource("imagenet2012", "train", {str(imagenet_dir)!r}).read(0)
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True)
