"""Small data sets of noise, each prepared once: measuring needs files, not pictures."""

import importlib.util
import pathlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest

TRAIN, VALIDATION = 12, 2
WNIDS = ("n01440764", "n01443537")


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory) -> pathlib.Path:
  """A folder of classes, prepared. Do not write to it."""
  from resnet_jax.data.prepare import prepare

  root = tmp_path_factory.mktemp("noise")
  for i, image in enumerate(_noise()):
    folder = root / ("train" if i < TRAIN else "val") / WNIDS[i % 2]
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{i:02d}.JPEG", "JPEG")
  prepare("folder", str(root))
  return root


@pytest.fixture(scope="session")
def noise_imagenet(tmp_path_factory) -> pathlib.Path:
  """A data directory that tfds itself has made for `prepare imagenet2012`. Do not write to it."""
  pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
  pytest.importorskip("tensorflow", reason="TensorFlow, which prepares the data, is not installed")
  from resnet_jax.data.prepare import prepare

  samples = tmp_path_factory.mktemp("samples")
  for i, image in enumerate(_noise()):
    image.save(samples / f"{WNIDS[i % 2]}_{i:02d}.JPEG", "JPEG")
  tars = tmp_path_factory.mktemp("tars")
  _make_imagenet_tars(samples, tars, TRAIN, VALIDATION)
  folder = tmp_path_factory.mktemp("imagenet")
  prepare("imagenet2012", str(folder), manual_dir=str(tars))
  return folder


def _noise() -> Iterator[PIL.Image.Image]:
  generator = np.random.default_rng(0)
  for _ in range(TRAIN + VALIDATION):
    height, width = generator.integers(260, 400, 2)
    pixels = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    yield PIL.Image.fromarray(pixels).resize((int(width), int(height)))


def _make_imagenet_tars(*arguments) -> None:
  """That of the tests of the data sets, which lies in another folder of tests."""
  path = pathlib.Path(__file__).parents[1] / "data" / "imagenet_tars.py"
  spec = importlib.util.spec_from_file_location("imagenet_tars", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.make_imagenet_tars(*arguments)
