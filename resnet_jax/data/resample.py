"""Resizing one window of an image, antialiased: with Pillow, or as Pillow does it, only faster.

Each pixel of the result is a mean of the image under a filter as wide as two pixels of the result (of
the image, where it is enlarged), or four for the bicubic one. Both ways give the same pixels. The
fast one is bilinear alone. It adds up whole rows at a time, of three planes, and turns the image on
its side to resize along its rows.
"""

import math

import cv2
import numba
import numpy as np
import PIL.Image

from resnet_jax.data.compiled import compiled
from resnet_jax.data.config import Interpolation
from resnet_jax.data.windows import Part, Window

_FILTERS = {
  "bilinear": PIL.Image.Resampling.BILINEAR,
  "bicubic": PIL.Image.Resampling.BICUBIC,
}
# How far they reach to each side, in pixels of the result (of the image, where it is enlarged).
_REACH = {"bilinear": 1, "bicubic": 2}

# Pillow's weights are integers of so many bits of fraction.
_FRACTION = 22
_HALF = 1 << (_FRACTION - 1)
# Numba widens sums of 32-bit integers, for which vectors have half the lanes.
_I = np.int32


def touched_part(
  window: Window, shape: tuple[int, int], size: tuple[int, int], interpolation: Interpolation
) -> Part:
  """The part of an image on which a resized window of it depends.

  Args:
    window: The part that is shown; its edges may lie between pixels.
    shape: (height, width) of the result.
    size: (height, width) of the image.
    interpolation: Which of the filters.
  """
  down = _REACH[interpolation] * max((window.bottom - window.top) / shape[0], 1)
  across = _REACH[interpolation] * max((window.right - window.left) / shape[1], 1)
  return Part(
    max(0, math.floor(window.left - across)),
    max(0, math.floor(window.top - down)),
    min(size[1], math.ceil(window.right + across)),
    min(size[0], math.ceil(window.bottom + down)),
  )


def resize_window(
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


def resize_planes(
  planes: np.ndarray, part: Part, size: tuple[int, int], window: Window, shape: tuple[int, int]
) -> np.ndarray:
  """As `resize_window`, bilinear, of a part of an image, bit for bit.

  Args:
    planes: (3, H, W) uint8, the pixels of a part of the image.
    part: Which: at least `touched_part`.
    size: (height, width) of the image.
    window: The part that is shown.
    shape: (height, width) of the result.

  Returns:
    (height, width, 3) uint8.
  """
  count, height, width = planes.shape
  on_side = cv2.transpose(planes.reshape(count * height, width))
  across = _resample_rows(on_side[None], part.left, size[1], window.left, window.right, shape[1])
  upright = cv2.transpose(across[0]).reshape(count, height, shape[1])
  return cv2.merge(_resample_rows(upright, part.top, size[0], window.top, window.bottom, shape[0]))


@compiled
def _resample_rows(planes, first, size, start, end, count):
  """Resamples the rows of some planes, each a weighted sum of a few.

  Args:
    planes: (P, H, W) uint8.
    first: Which row of the image is the planes' first.
    size: Rows of the image.
    start: Where in the image the result starts, in rows.
    end: Where it ends.
    count: Rows of the result.

  Returns:
    (P, count, W) uint8.
  """
  result = np.empty((len(planes), count, planes.shape[2]), np.uint8)
  # In single precision, as Pillow keeps its boxes.
  start, end = np.float32(start), np.float32(end)
  step = np.float64(end - start) / count
  reach = max(step, 1.0)
  weights = np.empty(2 * int(math.ceil(reach)) + 1, np.float64)
  rounded = np.empty(len(weights), np.int32)
  sums = np.empty(planes.shape[2], np.int32)
  for row in range(count):
    center = np.float64(start) + (row + 0.5) * step
    above = max(int(center - reach + 0.5), 0, first)
    taps = min(int(center + reach + 0.5), size, first + planes.shape[1]) - above
    for tap in range(taps):
      weights[tap] = max(1 - abs((above + tap - center + 0.5) * (1 / reach)), 0)
    total = weights[:taps].sum()
    for tap in range(taps):
      rounded[tap] = int(weights[tap] / total * (1 << _FRACTION) + 0.5)
    for plane in range(len(planes)):
      rows = planes[plane, above - first : above - first + taps]
      out = result[plane, row]
      if taps == 2:
        _add_two(rows[0], rows[1], rounded[0], rounded[1], out)
      elif taps == 3:
        _add_three(rows[0], rows[1], rows[2], rounded[0], rounded[1], rounded[2], out)
      else:
        _add_all(rows, rounded, sums, out)
  return result


@numba.njit
def _add_two(first, second, weight, other, out):
  for i in range(len(out)):
    out[i] = np.uint8(_I(_I(first[i]) * weight + _I(second[i]) * other + _HALF) >> _FRACTION)


@numba.njit
def _add_three(first, second, third, weight, other, last, out):
  for i in range(len(out)):
    total = _I(first[i]) * weight + _I(second[i]) * other + _I(third[i]) * last
    out[i] = np.uint8(_I(total + _HALF) >> _FRACTION)


@numba.njit
def _add_all(rows, weights, sums, out):
  sums[:] = _HALF
  for k in range(len(rows)):
    row, weight = rows[k], weights[k]
    for i in range(len(sums)):
      sums[i] = _I(sums[i] + _I(_I(row[i]) * weight))
  for i in range(len(out)):
    out[i] = np.uint8(sums[i] >> _FRACTION)
