"""Data sets of known size with black pictures: for what asks how they are, and not what they show.

So a run can be looked at, compiled and counted where its data does not lie.
"""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import PIL.Image

from resnet_jax.data import augment
from resnet_jax.data.config import DataConfig
from resnet_jax.data.dataset import Dataset, kept_for_training
from resnet_jax.data.example_source import Example, ExampleSource
from resnet_jax.data.preprocessing import make_preprocessing
from resnet_jax.data.resident import resident_dataset
from resnet_jax.data.sources import hold_out


def _cifar(classes: int) -> Callable[[DataConfig, int], Dataset]:
  def open_blank(config: DataConfig, seed: int) -> Dataset:
    del seed
    arrays = {
      name: (np.zeros((size, 32, 32, 3), np.uint8), np.zeros(size, np.int32))
      for name, size in (("train", 50_000), ("test", 10_000))
    }
    return resident_dataset(config.dataset, hold_out(arrays, config), _names(classes), config)

  return open_blank


def _imagenet(config: DataConfig, seed: int) -> Dataset:
  from resnet_jax.data.streaming import build_dataset

  settings = config.streaming
  size = settings.image_size
  train, validation = 1_281_167, 50_000
  parts: dict[str, tuple[ExampleSource, range]] = {
    name: (_Black(count, 1000), range(count))
    for name, count in (("train", train), ("validation", validation))
  }
  kept_for_training(config, train, has_validation=True)
  own = np.zeros((size, size, 3) if config.mean == "pixel" else 3)
  preprocessing = make_preprocessing(
    config, own, size, settings.short_side_evaluation, settings.interpolation
  )
  colors = {
    "color_magnitudes": np.asarray(augment.ALEXNET_MAGNITUDES, np.float32),
    "color_components": np.asarray(augment.ALEXNET_COMPONENTS, np.float32),
  }
  uncached = dataclasses.replace(config, streaming=dataclasses.replace(settings, cache="nothing"))
  return build_dataset(uncached, seed, parts, preprocessing, colors)


_KNOWN: dict[str, Callable[[DataConfig, int], Dataset]] = {
  "cifar10": _cifar(10),
  "cifar100": _cifar(100),
  "imagenet2012": _imagenet,
}


def blank_dataset(config: DataConfig, seed: int) -> Dataset | None:
  """The data set that a config names, with as many examples and classes, all of them black.

  Args:
    config: The data section of a config.
    seed: The run's seed.

  Returns:
    None where the sizes are not known beforehand: of folders, and of most sets by name.

  Raises:
    UserError: Its sizes do not allow what the config asks for.
  """
  known = _KNOWN.get(config.dataset)
  return known(config, seed) if known else None


class _Black(ExampleSource):
  """So many black pictures of class 0."""

  def __init__(self, size: int, classes: int):
    self._size, self._classes = size, classes
    picture = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(picture, "PNG")
    self._picture = picture.getvalue()

  @property
  def class_names(self) -> tuple[str, ...]:
    """Numbers alone."""
    return _names(self._classes)

  def __len__(self) -> int:
    return self._size

  def read(self, i: int) -> Example:
    """The same for all."""
    del i
    return self._picture, 0

  def locate(self, i: int) -> str:
    """Nowhere: they are made up."""
    return f"black picture {i}"


def _names(classes: int) -> tuple[str, ...]:
  return tuple(f"class {label}" for label in range(classes))
