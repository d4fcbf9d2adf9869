"""Real pictures for the tests of the streaming half, prepared once a session by tfds itself."""

import pathlib

import pytest
from imagenet_tars import make_imagenet_tars

from resnet_jax.data.prepare import prepare

TRAIN, VALIDATION = 60, 30
FORMATS = ("tfrecord", "array_record")


@pytest.fixture(scope="session")
def samples_dir(test_data: pathlib.Path) -> pathlib.Path:
  """Full-size JPEGs of ImageNet, named WNID_anything.JPEG."""
  folder = test_data / "imagenet_samples"
  if not folder.is_dir():
    pytest.skip(f"no ImageNet samples at {folder}")
  return folder


@pytest.fixture(scope="session")
def imagenet_tars(
  samples_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A folder with the two archives of a small ImageNet."""
  folder = tmp_path_factory.mktemp("tars")
  make_imagenet_tars(samples_dir, folder, TRAIN, VALIDATION)
  return folder


@pytest.fixture(scope="session")
def imagenet_dir(
  imagenet_tars: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A data directory that `prepare imagenet2012` has made, as TFRecord. Do not write to it."""
  pytest.importorskip("tensorflow_datasets")
  folder = tmp_path_factory.mktemp("imagenet")
  prepare("imagenet2012", str(folder), manual_dir=str(imagenet_tars))
  return folder


@pytest.fixture(scope="session")
def sharded_dirs(
  imagenet_tars: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
  """By format, a data directory with the small ImageNet in several files, made by tfds alone."""
  tfds = pytest.importorskip("tensorflow_datasets")
  folders = {}
  for file_format in FORMATS:
    folders[file_format] = tmp_path_factory.mktemp(file_format)
    builder = tfds.builder("imagenet2012", data_dir=folders[file_format], file_format=file_format)
    config = tfds.download.DownloadConfig(manual_dir=imagenet_tars, num_shards=4)
    builder.download_and_prepare(download_config=config)
  return folders
