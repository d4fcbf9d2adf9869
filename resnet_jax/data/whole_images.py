"""Whole images of a split, in batches of one shape, for dense evaluation.

A compiled program takes images of one shape, in batches of one size. So the shapes of all images
are read first, from their headers, and each shape gets one batch size, no larger than it needs.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.data.config import Interpolation
from resnet_jax.data.dataset import Batch, Split, positions
from resnet_jax.data.decode import decode_image, image_shape
from resnet_jax.data.evaluation_views import require_decoder
from resnet_jax.data.feed import ahead, even_batch_size, fill
from resnet_jax.data.resample import resize_window
from resnet_jax.data.windows import Window, rounded_shape

# Number of headers that are read at a time.
_READ_TOGETHER = 128


class ShapeGroup(NamedTuple):
  """The examples whose images are resized to one shape.

  Attributes:
    shape: (height, width) in pixels.
    examples: (N,) int, in the order of the split.
    batch_size: Examples per batch.
  """

  shape: tuple[int, int]
  examples: np.ndarray
  batch_size: int

  def batches(self) -> Iterator[np.ndarray]:
    """Yields the examples of each batch; the last batch may be smaller."""
    for start in range(0, len(self.examples), self.batch_size):
      yield self.examples[start : start + self.batch_size]


def stored_shapes(split: Split) -> np.ndarray:
  """Reads the shapes of all images from their headers.

  Args:
    split: One that `streaming.build_dataset` made.

  Returns:
    (N, 2) int: height and width as stored; zeros for undecodable images.

  Raises:
    TypeError: If the split is not one of a streaming data set.
  """
  decoder = require_decoder(split)
  shapes = np.zeros((split.size, 2), int)
  for start in range(0, split.size, _READ_TOGETHER):
    examples = np.arange(start, min(start + _READ_TOGETHER, split.size))
    for example, (shape, _) in zip(
      examples.tolist(), decoder.each(examples, image_shape), strict=True
    ):
      if shape is not None:
        shapes[example] = shape
  return shapes


def group_by_shape(
  stored: np.ndarray,
  short_side: int,
  quantum: int,
  most: Callable[[int, int], float],
  multiple: int = 1,
) -> list[ShapeGroup]:
  """Groups the examples of a split by the shape that their images are resized to.

  Args:
    stored: As `stored_shapes` returns them.
    short_side: Of all resized images, in pixels.
    quantum: See `windows.rounded_shape`.
    most: From (height, width) to the largest number of examples in a batch of such images.
    multiple: Batch sizes are a multiple of this, the number of devices.

  Returns:
    The groups, sorted by shape. Undecodable images are in the largest group, so that no program is
    compiled for them alone.
  """
  members: dict[tuple[int, int], list[int]] = {}
  undecodable = []
  for example, (height, width) in enumerate(stored.tolist()):
    if height:
      shape = rounded_shape(height, width, short_side, quantum)
      members.setdefault(shape, []).append(example)
    else:
      undecodable.append(example)
  if undecodable:
    if not members:
      members[short_side, short_side] = []
    largest = max(sorted(members), key=lambda shape: len(members[shape]))
    members[largest] = sorted(members[largest] + undecodable)
  return [
    ShapeGroup(
      shape, np.array(members[shape]), even_batch_size(len(members[shape]), most(*shape), multiple)
    )
    for shape in sorted(members)
  ]


def whole_image(
  image: bytes | np.ndarray,
  short_side: int,
  quantum: int = 1,
  interpolation: Interpolation = "bilinear",
) -> np.ndarray:
  """Decodes a whole image and resizes its short side to `short_side`: (H, W, 3) uint8.

  Args:
    image: An encoded image, or (H, W, 3) uint8 pixels.
    short_side: In pixels.
    quantum: The long side is rounded to a multiple of this; see `windows.rounded_shape`.
    interpolation: Interpolation of the resizing.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  pixels = decode_image(image)
  height, width = pixels.shape[:2]
  shape = rounded_shape(height, width, short_side, quantum)
  return _resized(pixels, shape, interpolation)


def whole_image_batches(
  split: Split, groups: Sequence[ShapeGroup], interpolation: Interpolation = "bilinear"
) -> Iterator[Batch]:
  """Yields every example once, as a whole image, in batches of one shape.

  Args:
    split: One that `streaming.build_dataset` made.
    groups: Its examples, as `group_by_shape` returns them.
    interpolation: Interpolation of the resizing.

  Yields:
    Batches as of `feed.evaluation_batches`; `image` is (N, H, W, 3), and N, H, W are the group's.

  Raises:
    TypeError: If the split is not one of a streaming data set.
  """
  decoder = require_decoder(split)

  def fetch(part: tuple[ShapeGroup, np.ndarray]) -> Batch:
    group, examples = part
    show = functools.partial(_resized, shape=group.shape, interpolation=interpolation)
    batch = positions(np.zeros(len(examples), int), examples)
    batch["image"] = np.zeros((len(examples), *group.shape, 3), np.uint8)
    batch["label"] = np.zeros(len(examples), np.int32)
    batch["real"] = np.ones(len(examples), np.float32)
    for row, (pixels, label) in enumerate(decoder.each(examples, show)):
      batch["label"][row] = label
      if pixels is None:
        batch["weight"][row] = 0
      else:
        batch["image"][row] = pixels
    return {name: fill(array, group.batch_size) for name, array in batch.items()}

  parts = ((group, examples) for group in groups for examples in group.batches())
  largest = max(group.batch_size for group in groups)
  yield from ahead(fetch, parts, split.batches_ahead(largest))


def _resized(
  image: bytes | np.ndarray, shape: tuple[int, int], interpolation: Interpolation
) -> np.ndarray:
  pixels = decode_image(image)
  height, width = pixels.shape[:2]
  return resize_window(pixels, Window(0, 0, width, height), shape, interpolation)
