"""From the bytes of one encoded image to uint8 pixels: a whole image, or one window of it.

Of JPEGs no more is decoded than a window needs, or the rows down to its last (`jpeg.py`); all other
formats, and JPEGs in CMYK, are decoded by Pillow. A file is known by its bytes, not by its name.

EXIF orientation is ignored, as TensorFlow's decoder and the common ImageNet pipelines do: a network
trained elsewhere saw these pixels, and a few hundred ImageNet files carry wrong tags.
"""

import os
from collections.abc import Callable

import numpy as np

from resnet_jax.data.config import Interpolation
from resnet_jax.data.jpeg import decode_rows, show_part
from resnet_jax.data.jpeg_header import read_frame
from resnet_jax.data.pillow import decode_with_pillow, shape_with_pillow
from resnet_jax.data.resample import resize_window, touched_part
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
  result: np.ndarray | None = None,
) -> np.ndarray:
  """Decodes an image and resizes one window of it, antialiased.

  Args:
    encoded: A JPEG, PNG, … file, of any colour mode, which is made RGB; or the (H, W, 3) uint8
      pixels of an image that was decoded before.
    window: From (height, width) of the image to the window that is shown.
    shape: (height, width) of the result.
    quick: Whether to decode a JPEG of which the window is large to a half, a quarter or an eighth
      first.
    interpolation: Of the resizing.
    result: Where to write to; contiguous.

  Returns:
    (height, width, 3) uint8.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  if isinstance(encoded, np.ndarray):
    return resize_window(encoded, window(*encoded.shape[:2]), shape, interpolation, result)
  frame = read_frame(encoded)
  if frame is None or frame.components not in (1, 3):
    image = decode_with_pillow(encoded)
    return resize_window(image, window(*image.shape[:2]), shape, interpolation, result)
  size = frame.height, frame.width
  shown = window(*size)
  part = touched_part(shown, shape, size, interpolation)
  if interpolation == "bilinear" and part.is_small():
    result = np.empty((*shape, 3), np.uint8) if result is None else result
    show_part(encoded, frame, part, shown, result)
    return result
  down, across = (shown.bottom - shown.top) / shape[0], (shown.right - shown.left) / shape[1]
  reduction = next((r for r in _REDUCTIONS if quick and r <= min(down, across)), 1)
  pixels = decode_rows(encoded, frame, part.bottom, reduction)
  height, width = pixels.shape[:2]
  left, top, right, bottom = (edge / reduction for edge in shown)
  reduced = Window(left, top, min(right, width), min(bottom, height))
  return resize_window(pixels, reduced, shape, interpolation, result)


def decode_windows(
  encoded: bytes | np.ndarray,
  windows: Callable[[int, int], tuple[Window, ...]],
  shape: tuple[int, int],
  interpolation: Interpolation = "bilinear",
  result: np.ndarray | None = None,
) -> np.ndarray:
  """Decodes an image once and resizes several windows of it.

  Args:
    encoded: As `decode_window`'s.
    windows: From (height, width) of the image to the windows.
    shape: (height, width) of each result.
    interpolation: Of the resizing.
    result: Where to write to; contiguous.

  Returns:
    (windows, height, width, 3) uint8.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  image = decode_image(encoded)
  shown = windows(*image.shape[:2])
  if result is None:
    result = np.empty((len(shown), *shape, 3), np.uint8)
  for one, pixels in zip(shown, result, strict=True):
    resize_window(image, one, shape, interpolation, pixels)
  return result


def decode_image(encoded: bytes | np.ndarray) -> np.ndarray:
  """Decodes a whole image: (H, W, 3) uint8. Raises `UndecodableError` as `decode_window` does."""
  if isinstance(encoded, np.ndarray):
    return encoded
  frame = read_frame(encoded)
  if frame is None or frame.components not in (1, 3):
    return decode_with_pillow(encoded)
  return decode_rows(encoded, frame, frame.height, 1)


def image_shape(encoded: bytes | np.ndarray) -> tuple[int, int]:
  """Returns the height and width of an image, reading only its header.

  Raises:
    UndecodableError: If the bytes do not start with the header of an image.
  """
  if isinstance(encoded, np.ndarray):
    return encoded.shape[0], encoded.shape[1]
  frame = read_frame(encoded)
  return shape_with_pillow(encoded) if frame is None else (frame.height, frame.width)
