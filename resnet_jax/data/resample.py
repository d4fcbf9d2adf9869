"""Resizing one window of an image, antialiased, exactly or quickly.

Both compute what Pillow's bilinear filter is: each pixel of the result is a mean of the image under
a triangle as wide as two pixels of the result (of the image, where it is enlarged). The exact way
has Pillow's bicubic filter too, as wide as four.
"""

import functools
import math

import cv2
import numpy as np
import PIL.Image

from resnet_jax.data.config import Interpolation
from resnet_jax.data.windows import Window

_FILTERS = {
  "bilinear": PIL.Image.Resampling.BILINEAR,
  "bicubic": PIL.Image.Resampling.BICUBIC,
}
# How far they reach to each side, in pixels of the result (of the image, where it is enlarged).
REACH = {"bilinear": 1, "bicubic": 2}

# The triangle's width is rounded to this fraction of a pixel, so that few filters are made.
_STEPS = 128
# Taps of a filter on each side of its middle.
_REACH = 2
# The quick way leaves all else to the exact one: its filters would get long, or the pixels around
# the window, which it does not see, would count for more than the outermost pixels of the result.
_QUICK_REDUCTIONS = (1 / 3, 2.0)


def resize_exactly(
  image: np.ndarray,
  window: Window,
  shape: tuple[int, int],
  interpolation: Interpolation = "bilinear",
) -> np.ndarray:
  """Resizes a window with Pillow.

  Equal, up to rounding, to resizing the whole image and cropping: pixels just outside the window
  weigh in at its edges.

  Args:
    image: (H, W, 3) uint8.
    window: The part that is shown; its edges may lie between pixels.
    shape: (height, width) of the result.
    interpolation: Which of Pillow's filters.

  Returns:
    (height, width, 3) uint8.
  """
  picture = PIL.Image.fromarray(image)
  resized = picture.resize(shape[::-1], _FILTERS[interpolation], box=window)
  return np.asarray(resized)


def resize_quickly(image: np.ndarray, window: Window, shape: tuple[int, int]) -> np.ndarray:
  """As `resize_exactly`, but faster, for windows that begin at a whole pixel.

  OpenCV interpolates; where the image is reduced, a filter of five taps is applied before, which
  makes of interpolation's narrow triangle the wide one. The result differs from `resize_exactly`'s
  by less than a grey level in the mean of most photographs where the image is reduced, and by
  rounding where it is enlarged.

  Args:
    image: (H, W, 3) uint8.
    window: The part that is shown; its left and top edges are whole numbers.
    shape: (height, width) of the result.

  Returns:
    (height, width, 3) uint8.
  """
  down, across = (window.bottom - window.top) / shape[0], (window.right - window.left) / shape[1]
  smallest, largest = _QUICK_REDUCTIONS
  if min(down, across) < smallest or max(down, across) > largest:
    return resize_exactly(image, window, shape)
  top, left = int(window.top), int(window.left)
  # One pixel more than is covered, for interpolation.
  bottom, right = math.ceil(window.bottom) + 1, math.ceil(window.right) + 1
  if max(down, across) > 1:
    above, before = min(_REACH, top), min(_REACH, left)
    part = image[top - above : bottom + _REACH, left - before : right + _REACH]
    part = cv2.sepFilter2D(part, -1, _taps(across), _taps(down), borderType=cv2.BORDER_REPLICATE)
    part = part[above : above + bottom - top, before : before + right - left]
  else:
    part = image[top:bottom, left:right]
  # Scaled by the numbers given, not to a shape: so the right and bottom edges are where they should
  # be, and the last rows and columns, of the one pixel more, are cut off.
  resized = cv2.resize(part, None, fx=1 / across, fy=1 / down, interpolation=cv2.INTER_LINEAR)
  return _at_least(resized, shape)[: shape[0], : shape[1]]


def _at_least(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Repeats the last row or column of an image that lacks it by rounding."""
  missing = [max(0, want - have) for want, have in zip(shape, image.shape, strict=False)]
  return np.pad(image, [(0, m) for m in missing] + [(0, 0)], "edge") if any(missing) else image


def _taps(reduction: float) -> np.ndarray:
  return _filter(round(max(reduction, 1.0) * _STEPS))


@functools.cache
def _filter(steps: int) -> np.ndarray:
  """Five taps that make the triangle of a reduction of the triangle of linear interpolation.

  The wide triangle is projected (least squares) on those sums of the narrow one's shifts.
  """
  reduction, taps = steps / _STEPS, np.arange(-_REACH, _REACH + 1)
  at = np.linspace(-3, 3, 6 * 64 + 1)
  narrow = np.clip(1 - np.abs(at - taps[:, None]), 0, None)
  wide = np.clip(1 - np.abs(at) / reduction, 0, None)
  # Summed by einsum, as BLAS would leave threads behind that wait for more, busily.
  products = np.einsum("ix,jx->ij", narrow, narrow)
  found = np.linalg.solve(products, np.einsum("ix,x->i", narrow, wide))
  return (found / found.sum()).astype(np.float32)
