"""What of an image is shown to measure a network: one crop, ten crops, or whole images of any size.

The paper (section 3.4) measures single networks by the ten crops of Krizhevsky et al. 2012, and its
best by applying the network to whole images whose short sides are 224, 256, 384, 480 and 640.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.config import Interpolation, StreamingConfig
from resnet_jax.data.dataset import Batch, Split, positions
from resnet_jax.data.decode import decode_image, decode_window, decode_windows
from resnet_jax.data.decoded_examples import DecodedExamples
from resnet_jax.data.feed import fill
from resnet_jax.data.preprocessing import normalize
from resnet_jax.data.resample import resize_window
from resnet_jax.data.windows import Window, center_window, five_windows, rounded_shape

# Whole images that are decoded at a time, before they are sorted by shape.
_READ_TOGETHER = 128


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


def whole_image(
  image: bytes | np.ndarray,
  short_side: int,
  quantum: int = 1,
  interpolation: Interpolation = "bilinear",
) -> np.ndarray:
  """The whole image with its short side made `short_side`: (H, W, 3) uint8.

  Args:
    image: An encoded image, or (H, W, 3) uint8 pixels.
    short_side: In pixels.
    quantum: The long side is rounded to a multiple of this; see `windows.rounded_shape`.
    interpolation: Of the resizing.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  pixels = decode_image(image)
  height, width = pixels.shape[:2]
  shape = rounded_shape(height, width, short_side, quantum)
  return resize_window(pixels, Window(0, 0, width, height), shape, interpolation)


def plain_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The view of evaluation: pixels, normalised.

  Args:
    constants: What `preprocessing.normalize` takes.
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
  """Ten views of an image: five crops, and their mirror images.

  Args:
    constants: As `plain_view`'s.
    batch: `image` (N, 5, H, W, 3) uint8 and `label` (N,) int32.
    key: Unused.

  Returns:
    Images (N, 10, H, W, 3) float32, labels (N,) int32. The scores of the ten are to be averaged.
  """
  crops = batch["image"]
  both = jnp.concatenate([crops, crops[:, :, :, ::-1]], axis=1)
  return plain_view(constants, {**batch, "image": both}, key)


def center_crops(split: Split, settings: StreamingConfig) -> Split:
  """A split of a streaming data set, with the centre crop of each image; otherwise `ten_crops`."""
  shape = (settings.image_size, settings.image_size, 3)
  fetch = _decoder(split).showing(functools.partial(show_center_crop, settings), shape)
  return dataclasses.replace(split, fetch=fetch, view=plain_view)


def ten_crops(split: Split, settings: StreamingConfig) -> Split:
  """A split of a streaming data set, with ten views of each image instead of one.

  Args:
    split: One that `streaming.build_dataset` made.
    settings: The streaming section of its config.

  Raises:
    TypeError: If the split is not one of a streaming data set.
  """
  shape = (5, settings.image_size, settings.image_size, 3)
  fetch = _decoder(split).showing(functools.partial(show_five_crops, settings), shape)
  return dataclasses.replace(split, fetch=fetch, view=ten_crop_view)


def whole_image_batches(
  split: Split,
  short_side: int,
  quantum: int,
  batch_size: Callable[[int, int], int],
  interpolation: Interpolation = "bilinear",
) -> Iterator[Batch]:
  """Every example once, as a whole image, with others of the same shape.

  Args:
    split: One that `streaming.build_dataset` made.
    short_side: Of all images, in pixels.
    quantum: See `windows.rounded_shape`.
    batch_size: From (height, width) to the number of examples in a batch of such images.
    interpolation: Of the resizing.

  Yields:
    As `feed.evaluation_batches`, `image` being (N, H, W, 3) with N and (H, W) of the batch's own.

  Raises:
    TypeError: If the split is not one of a streaming data set.
  """
  decoder = _decoder(split)
  show = functools.partial(
    whole_image, short_side=short_side, quantum=quantum, interpolation=interpolation
  )
  waiting: dict[tuple[int, int], list[Batch]] = {}
  for first in range(0, split.size, _READ_TOGETHER):
    examples = np.arange(first, min(first + _READ_TOGETHER, split.size))
    for example, (shown, label) in zip(
      examples.tolist(), decoder.each(examples, show), strict=True
    ):
      image = np.zeros((short_side, short_side, 3), np.uint8) if shown is None else shown
      height, width = image.shape[:2]
      rows = waiting.setdefault((height, width), [])
      rows.append(_row(example, image, label, weight=shown is not None))
      if len(rows) == batch_size(height, width):
        yield _joined(waiting.pop((height, width)))
  for (height, width), rows in waiting.items():
    yield {k: fill(v, batch_size(height, width)) for k, v in _joined(rows).items()}


def _row(example: int, image: np.ndarray, label: int, weight: float) -> Batch:
  """A batch of one example."""
  return positions(np.zeros(1, int), np.array([example])) | {
    "image": image[None],
    "label": np.array([label], np.int32),
    "weight": np.array([weight], np.float32),
    "real": np.ones(1, np.float32),
  }


def _joined(rows: list[Batch]) -> Batch:
  return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _decoder(split: Split) -> DecodedExamples:
  if not isinstance(split.fetch, DecodedExamples):
    raise TypeError(f"the {split.name} split is not decoded from images")
  return split.fetch
