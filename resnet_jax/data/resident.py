"""The resident engine: a whole data set as uint8 on the device, cropped and mirrored there."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.data import augment
from resnet_jax.data.config import DataConfig
from resnet_jax.data.dataset import Dataset, Split, View, positions
from resnet_jax.data.preprocessing import make_preprocessing, normalize
from resnet_jax.errors import UserError

Arrays = tuple[np.ndarray, np.ndarray]


def resident_dataset(
  name: str, arrays: Mapping[str, Arrays], class_names: Sequence[str], config: DataConfig
) -> Dataset:
  """A data set from its images and labels.

  Args:
    name: Name of the data set.
    arrays: Images (N, H, W, C) uint8 and labels (N,) of each split; `train` must be there.
    class_names: Names in the order of the labels.
    config: Says how pixels are normalised and training images augmented.

  Raises:
    UserError: The padding is not smaller than the images, or the config has another number of
      channels.
  """
  images = arrays["train"][0]
  if config.resident.padding >= min(images.shape[1:3]):
    raise UserError(
      f"data.resident.padding={config.resident.padding}: a crop could miss the whole image of "
      f"{images.shape[1]}x{images.shape[2]} pixels; choose less"
    )
  axes = 0 if config.mean == "pixel" else (0, 1, 2)
  height, width, channels = images.shape[1:]
  preprocessing = make_preprocessing(
    config, images.mean(axes, dtype=np.float64), height if height == width else None
  )
  views: dict[str, View] = {
    "train": functools.partial(
      training_view, padding=config.resident.padding, flip=config.resident.flip
    )
  }
  splits = {
    split: Split(
      name=split,
      size=len(labels),
      constants={
        "images": pixels,
        "labels": labels.astype(np.int32),
        **preprocessing.constants,
      },
      fetch=positions,
      view=views.get(split, plain_view),
    )
    for split, (pixels, labels) in arrays.items()
  }
  return Dataset(name, tuple(class_names), (height, width, channels), splits, preprocessing)


def plain_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The single view of evaluation: the image, normalised (paper, section 4.2).

  Args:
    constants: `images` (size, H, W, C) uint8, `labels` (size,) int32, and what
      `preprocessing.normalize` takes.
    batch: `example` (N,).
    key: Unused; the view is the same each time.

  Returns:
    Images (N, H, W, C) float32, labels (N,) int32.
  """
  del key
  example = batch["example"]
  return normalize(constants, constants["images"][example]), constants["labels"][example]


def training_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array, *, padding: int, flip: bool
) -> tuple[jax.Array, jax.Array]:
  """The paper's view of CIFAR: normalised, padded by zeros, cropped at random, mirrored.

  Args:
    constants: As `plain_view`'s.
    batch: `epoch` and `example`, each (N,).
    key: The run's key.
    padding: Zeros on each side.
    flip: Whether to mirror half of the images.

  Returns:
    Images (N, H, W, C) float32, labels (N,) int32.
  """
  images, labels = plain_view(constants, batch, key)

  def augmented(epoch: jax.Array, example: jax.Array, image: jax.Array) -> jax.Array:
    crop_key, flip_key = jax.random.split(augment.example_key(key, epoch, example))
    image = augment.random_crop(crop_key, image, padding)
    return augment.random_flip(flip_key, image) if flip else image

  return jax.vmap(augmented)(batch["epoch"], batch["example"], images), labels
