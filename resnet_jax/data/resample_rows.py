"""Bilinear resampling of rows, antialiased, compiled by Numba.

Weights and rounding are Pillow's, and so is each pass, bit for bit.
"""

import math

import numba
import numpy as np

from resnet_jax.data.compiled import compiled

# Pillow's weights are integers of so many bits of fraction.
_FRACTION = 22
_HALF = 1 << (_FRACTION - 1)
# Numba widens sums of 32-bit integers, for which vectors have half the lanes.
_I = np.int32


@compiled
def resample_rows(planes, first, size, start, end, count):
  """Resamples the rows of some planes; each row of the result is a weighted sum of a few.

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
  exact = np.empty(2 * math.ceil(reach) + 1, np.float64)
  weights = np.empty(len(exact), np.int32)
  sums = np.empty(planes.shape[2], np.int32)
  for row in range(count):
    center = np.float64(start) + (row + 0.5) * step
    begin = max(int(center - reach + 0.5), 0, first)
    taps = min(int(center + reach + 0.5), size, first + planes.shape[1]) - begin
    for tap in range(taps):
      exact[tap] = max(1 - abs((begin + tap - center + 0.5) * (1 / reach)), 0)
    total = exact[:taps].sum()
    for tap in range(taps):
      weights[tap] = int(exact[tap] / total * (1 << _FRACTION) + 0.5)
    for plane in range(len(planes)):
      rows, out = planes[plane, begin - first : begin - first + taps], result[plane, row]
      if taps == 2:
        _add_two(rows[0], rows[1], weights, out)
      elif taps == 3:
        _add_three(rows[0], rows[1], rows[2], weights, out)
      else:
        _add_all(rows, weights, sums, out)
  return result


@numba.njit
def _add_two(first, second, weights, out):
  one, two = weights[0], weights[1]
  for i in range(len(out)):
    out[i] = np.uint8(_I(_I(first[i]) * one + _I(second[i]) * two + _HALF) >> _FRACTION)


@numba.njit
def _add_three(first, second, third, weights, out):
  one, two, three = weights[0], weights[1], weights[2]
  for i in range(len(out)):
    total = _I(first[i]) * one + _I(second[i]) * two + _I(third[i]) * three
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
