"""From the bytes of one encoded image to uint8 pixels: a whole image, or one window of it.

JPEGs are decoded by libjpeg-turbo as far as a window reaches (`jpeg.py`); all other formats, and
JPEGs in CMYK, by Pillow. A file is known by its bytes, not by its name.

EXIF orientation is ignored, as TensorFlow's decoder and the common ImageNet pipelines do: a network
trained elsewhere saw these pixels, and a few hundred ImageNet files carry wrong tags.
"""

import functools
import math
import os
from collections.abc import Callable

import numpy as np

from resnet_jax.data.config import Interpolation
from resnet_jax.data.jpeg import decode_rows, read_frame
from resnet_jax.data.pillow import decode_with_pillow
from resnet_jax.data.resample import REACH, resize_exactly, resize_quickly
from resnet_jax.data.windows import Window

# libjpeg-turbo reduces by these in no time.
_REDUCTIONS = (8, 4, 2)


def decoding_threads(requested: int) -> int:
  """The number of threads to decode with: `requested`, or one a usable core for 0."""
  if requested:
    return requested
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def decode_window(
  encoded: bytes | np.ndarray,
  window: Callable[[int, int], Window],
  shape: tuple[int, int],
  *,
  quick: bool = False,
  interpolation: Interpolation = "bilinear",
) -> np.ndarray:
  """Decodes an image and resizes one window of it, antialiased.

  Args:
    encoded: A JPEG, PNG, … file, of any colour mode, which is made RGB; or the (H, W, 3) uint8
      pixels of an image that was decoded before.
    window: From (height, width) of the image to the window that is shown.
    shape: (height, width) of the result.
    quick: Whether to decode large JPEGs to a half, a quarter or an eighth first, and to resize by
      `resize_quickly`, for which windows begin at whole pixels; always bilinear.
    interpolation: Of the exact resizing.

  Returns:
    (height, width, 3) uint8.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  resize = (
    resize_quickly if quick else functools.partial(resize_exactly, interpolation=interpolation)
  )
  if isinstance(encoded, np.ndarray):
    return resize(encoded, window(*encoded.shape[:2]), shape)
  frame = read_frame(encoded)
  if frame is None or frame.components not in (1, 3):
    image = decode_with_pillow(encoded)
    return resize(image, window(*image.shape[:2]), shape)
  shown = window(frame.height, frame.width)
  down, across = (shown.bottom - shown.top) / shape[0], (shown.right - shown.left) / shape[1]
  # Rows below the window weigh in at its edge, as far as the filter reaches.
  rows = math.ceil(shown.bottom + REACH[interpolation] * max(down, 1))
  reduction = next((r for r in _REDUCTIONS if quick and r <= min(down, across)), 1)
  pixels = decode_rows(encoded, frame, rows, reduction)
  if reduction == 1:
    return resize(pixels, shown, shape)
  height, width = pixels.shape[:2]
  left, top, right, bottom = (edge / reduction for edge in shown)
  return resize_exactly(pixels, Window(left, top, min(right, width), min(bottom, height)), shape)


def decode_windows(
  encoded: bytes | np.ndarray,
  windows: Callable[[int, int], tuple[Window, ...]],
  shape: tuple[int, int],
  interpolation: Interpolation = "bilinear",
) -> np.ndarray:
  """Decodes an image once and resizes several windows of it exactly.

  Args:
    encoded: As `decode_window`'s.
    windows: From (height, width) of the image to the windows.
    shape: (height, width) of each result.
    interpolation: Of the resizing.

  Returns:
    (windows, height, width, 3) uint8.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  image = decode_image(encoded)
  shown = windows(*image.shape[:2])
  return np.stack([resize_exactly(image, window, shape, interpolation) for window in shown])


def decode_image(encoded: bytes | np.ndarray) -> np.ndarray:
  """Decodes a whole image: (H, W, 3) uint8. Raises `UndecodableError` as `decode_window` does."""
  if isinstance(encoded, np.ndarray):
    return encoded
  frame = read_frame(encoded)
  if frame is None or frame.components not in (1, 3):
    return decode_with_pillow(encoded)
  return decode_rows(encoded, frame, frame.height, 1)
