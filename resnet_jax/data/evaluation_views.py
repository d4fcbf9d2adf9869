"""Crops for evaluation: the centre crop, and ten crops.

The paper (section 3.4) evaluates single networks with the ten crops of Krizhevsky et al. 2012, and
its best results with whole images (`whole_images.py`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.config import StreamingConfig
from resnet_jax.data.dataset import Split
from resnet_jax.data.decode import decode_window, decode_windows
from resnet_jax.data.decoded_examples import DecodedExamples
from resnet_jax.data.preprocessing import normalize
from resnet_jax.data.windows import center_window, five_windows


def show_center_crop(
  settings: StreamingConfig,
  epoch: int,
  example: int,
  image: bytes | np.ndarray,
  result: np.ndarray,
) -> None:
  """Writes the centre crop, the same in every epoch: (image_size, image_size, 3) uint8."""
  del epoch, example
  size = settings.image_size
  window = functools.partial(center_window, short_side=settings.short_side_evaluation, size=size)
  decode_window(image, window, (size, size), interpolation=settings.interpolation, result=result)


def show_five_crops(
  settings: StreamingConfig,
  epoch: int,
  example: int,
  image: bytes | np.ndarray,
  result: np.ndarray,
) -> None:
  """Writes the corner crops and the centre crop: (5, image_size, image_size, 3) uint8."""
  del epoch, example
  size = settings.image_size
  windows = functools.partial(five_windows, short_side=settings.short_side_evaluation, size=size)
  decode_windows(image, windows, (size, size), settings.interpolation, result)


def plain_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Normalises the pixels, as evaluation does.

  Args:
    constants: Constants of `preprocessing.normalize`.
    batch: `image` (N, H, W, 3) uint8 and `label` (N,) int32.
    key: Unused; the view is the same each time.

  Returns:
    Images (N, H, W, 3) float32, labels (N,) int32.
  """
  del key
  return normalize(constants, batch["image"]), batch["label"]


def ten_crop_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns ten views of each image: five crops and their mirror images.

  Args:
    constants: As in `plain_view`.
    batch: `image` (N, 5, H, W, 3) uint8 and `label` (N,) int32.
    key: Unused.

  Returns:
    Images (N, 10, H, W, 3) float32, labels (N,) int32. The caller averages the ten scores.
  """
  crops = batch["image"]
  both = jnp.concatenate([crops, crops[:, :, :, ::-1]], axis=1)
  return plain_view(constants, {**batch, "image": both}, key)


def center_crops(split: Split, settings: StreamingConfig) -> Split:
  """Returns a split with the centre crop of each image; otherwise as `ten_crops`."""
  shape = (settings.image_size, settings.image_size, 3)
  fetch = require_decoder(split).showing(functools.partial(show_center_crop, settings), shape)
  return dataclasses.replace(split, fetch=fetch, view=plain_view)


def ten_crops(split: Split, settings: StreamingConfig) -> Split:
  """Returns a split with ten views of each image instead of one.

  Args:
    split: One that `streaming.build_dataset` made.
    settings: The streaming section of its config.

  Raises:
    TypeError: If the split is not one of a streaming data set.
  """
  shape = (5, settings.image_size, settings.image_size, 3)
  fetch = require_decoder(split).showing(functools.partial(show_five_crops, settings), shape)
  return dataclasses.replace(split, fetch=fetch, view=ten_crop_view)


def require_decoder(split: Split) -> DecodedExamples:
  """Returns the `fetch` of a split, which must be of a streaming data set.

  Raises:
    TypeError: If the split is not one of a streaming data set.
  """
  if not isinstance(split.fetch, DecodedExamples):
    raise TypeError(f"the {split.name} split is not decoded from images")
  return split.fetch
