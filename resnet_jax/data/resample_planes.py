"""Bilinear resizing of images as planes, one for each colour, antialiased; compiled by Numba.

Rows are added up whole, in a core's vectors; to resize along its rows, an image is turned on its
side, some rows at a time. Weights and rounding are Pillow's, and so is each pass, bit for bit.
"""

import math

import numba
import numpy as np

from resnet_jax.data.compiled import compiled

# Pillow's weights are integers of so many bits of fraction.
_FRACTION = 22
_HALF = 1 << (_FRACTION - 1)
# Images are resized along their rows in strips of so many, which stay in a core's own cache: three
# planes of five words of rows are nearly the squares that are turned at once.
STRIP = 40
# Images are turned in squares of bytes, of which a row is a word; so many of them at once.
_SIDE, _SQUARES = 8, 16
# Numba widens sums of 32-bit integers, for which vectors have half the lanes; and makes floats of
# those of signed and unsigned ones.
_I, _U = np.int32, np.uint64
_HALVES, _PAIRS, _BYTES = _U(0x00000000FFFFFFFF), _U(0x0000FFFF0000FFFF), _U(0x00FF00FF00FF00FF)


@compiled
def resize_image(image, left, top, height, width, window, result):
  """Resizes a window of an image of which a part is at hand.

  Args:
    image: (H, W, 3) uint8, the part.
    left: Column of the image that is the part's first.
    top: Row of the image that is the part's first.
    height: Rows of the image.
    width: Columns of the image.
    window: Left, top, right and bottom edge of the window in the image, float.
    result: (rows, columns, 3) uint8, which is written to.
  """
  rows, columns = image.shape[:2]
  across = weigh(left, columns, width, window[0], window[2], result.shape[1])
  down = weigh(top, rows, height, window[1], window[3], result.shape[0])
  strip, narrow = empty_strip(columns), empty_strips(rows, result.shape[1])
  for number in range(len(narrow)):
    for row in range(min(STRIP, rows - number * STRIP)):
      for plane in range(3):
        _copy(image[number * STRIP + row, :, plane], strip[plane, row])
    resize_rows(strip, across, narrow[number])
  resize_columns(narrow, down, result)


@numba.njit
def empty_strip(columns):
  """(3, STRIP, W) uint8, some rows of an image of so many columns, or more: its planes."""
  return np.empty((3, STRIP, _padded(columns)), np.uint8)


@numba.njit
def empty_strips(rows, columns):
  """(N, 3, STRIP, W) uint8, as many strips as an image of so many rows has."""
  return np.empty(((rows + STRIP - 1) // STRIP, 3, STRIP, _padded(columns)), np.uint8)


@numba.njit
def resize_rows(strip, across, result):
  """Resizes a strip along its rows.

  Args:
    strip: (3, STRIP, W) uint8, of `empty_strip`.
    across: What `weigh` gives.
    result: (3, STRIP, W) uint8, of `empty_strips`.
  """
  count = 3 * STRIP
  on_side = np.empty((strip.shape[2], count), np.uint8)
  _turn(strip.reshape(count, -1), on_side)
  small = np.empty((result.shape[2], count), np.uint8)
  _add_rows(on_side, np.arange(len(on_side)), across, small)
  _turn(small, result.reshape(count, -1))


@numba.njit
def resize_columns(strips, down, result):
  """Resizes an image along its columns.

  Args:
    strips: (N, 3, STRIP, W) uint8, of `empty_strips`, which are as wide as the result.
    down: What `weigh` gives.
    result: (rows, columns, 3) uint8, which is written to.
  """
  rows = np.arange(len(strips) * STRIP)
  lines = strips.reshape(-1, strips.shape[3])
  small = np.empty((3, len(result), strips.shape[3]), np.uint8)
  for plane in range(3):
    _add_rows(lines, (rows // STRIP * 3 + plane) * STRIP + rows % STRIP, down, small[plane])
  for row in range(len(result)):
    _interleave(small[0, row], small[1, row], small[2, row], result[row].reshape(-1))


@numba.njit
def _padded(count):
  return (count + _SIDE - 1) // _SIDE * _SIDE


@numba.njit
def _copy(given, result):
  for i in range(len(given)):
    result[i] = given[i]


@numba.njit
def weigh(first, available, size, start, end, count):
  """How much each row of an image weighs in each row of the result.

  Args:
    first: The first row of the image that is at hand.
    available: How many are.
    size: Rows of the image.
    start: Where in the image the result starts, in rows.
    end: Where it ends.
    count: Rows of the result.

  Returns:
    For each row of the result: (count,) the first row at hand that weighs in, (count,) how many do,
    (count, most) int32 how much.
  """
  # In single precision, as Pillow keeps its boxes.
  start, end = np.float32(start), np.float32(end)
  step = np.float64(end - start) / count
  reach = max(step, 1.0)
  begins, taps = np.empty(count, np.int64), np.empty(count, np.int64)
  exact = np.empty(2 * math.ceil(reach) + 1, np.float64)
  rounded = np.empty((count, len(exact)), np.int32)
  for row in range(count):
    center = np.float64(start) + (row + 0.5) * step
    begin = max(int(center - reach + 0.5), 0, first)
    begins[row] = begin - first
    taps[row] = min(int(center + reach + 0.5), size, first + available) - begin
    for tap in range(taps[row]):
      exact[tap] = max(1 - abs((begin + tap - center + 0.5) * (1 / reach)), 0)
    total = exact[: taps[row]].sum()
    for tap in range(taps[row]):
      rounded[row, tap] = int(exact[tap] / total * (1 << _FRACTION) + 0.5)
  return begins, taps, rounded


@numba.njit
def _add_rows(image, places, weights, result):
  """Adds rows of an image up to those of the result.

  Args:
    image: (H, W) uint8.
    places: Where in it each row lies.
    weights: What `weigh` gives.
    result: (rows, W) uint8, which is written to.
  """
  begins, taps, rounded = weights
  sums = np.empty(image.shape[1], np.int32)
  for row in range(len(begins)):
    rows, out = places[begins[row] : begins[row] + taps[row]], result[row]
    if taps[row] == 2:
      _add_two(image[rows[0]], image[rows[1]], rounded[row], out)
    elif taps[row] == 3:
      _add_three(image[rows[0]], image[rows[1]], image[rows[2]], rounded[row], out)
    else:
      sums[:] = _HALF
      for k in range(taps[row]):
        _add_to(image[rows[k]], rounded[row, k], sums)
      _round(sums, out)


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
def _add_to(row, weight, sums):
  for i in range(len(sums)):
    sums[i] = _I(sums[i] + _I(_I(row[i]) * weight))


@numba.njit
def _round(sums, out):
  for i in range(len(sums)):
    out[i] = np.uint8(sums[i] >> _FRACTION)


@numba.njit
def _turn(image, result):
  """Writes rows as columns: (H, W) to (W, H) uint8, of multiples of eight."""
  height, width = image.shape[0] // _SIDE, image.shape[1] // _SIDE
  words, flat, stride = image.view(np.uint64), result.view(np.uint64).reshape(-1), _U(height)
  given, turned = np.empty(_SIDE * _SQUARES, np.uint64), np.empty(_SIDE * _SQUARES, np.uint64)
  for row in range(height):
    for begin in range(0, width, _SQUARES):
      count = min(_SQUARES, width - begin)
      for k in range(_SIDE):
        at = k * _SQUARES
        _copy(words[row * _SIDE + k, begin : begin + count], given[at : at + count])
      _turn_squares(given, turned)
      at = _U(begin * _SIDE * height + row)
      for square in range(count):
        for k in range(_SIDE):
          flat[at] = turned[_U(k * _SQUARES + square)]
          at += stride


@numba.njit
def _turn_squares(given, result):
  """Turns squares of eight by eight bytes: their quarters, then the quarters of these, then bytes.

  Args:
    given: (8, squares) uint64, flat: the rows of squares side by side, the first byte lowest.
    result: The same of the turned squares, which is written to.
  """
  for i in range(_SQUARES):
    a0, a4 = _swap(given[i], given[i + 4 * _SQUARES], _U(32), _HALVES)
    a1, a5 = _swap(given[i + _SQUARES], given[i + 5 * _SQUARES], _U(32), _HALVES)
    a2, a6 = _swap(given[i + 2 * _SQUARES], given[i + 6 * _SQUARES], _U(32), _HALVES)
    a3, a7 = _swap(given[i + 3 * _SQUARES], given[i + 7 * _SQUARES], _U(32), _HALVES)
    a0, a2 = _swap(a0, a2, _U(16), _PAIRS)
    a1, a3 = _swap(a1, a3, _U(16), _PAIRS)
    a4, a6 = _swap(a4, a6, _U(16), _PAIRS)
    a5, a7 = _swap(a5, a7, _U(16), _PAIRS)
    result[i], result[i + _SQUARES] = _swap(a0, a1, _U(8), _BYTES)
    result[i + 2 * _SQUARES], result[i + 3 * _SQUARES] = _swap(a2, a3, _U(8), _BYTES)
    result[i + 4 * _SQUARES], result[i + 5 * _SQUARES] = _swap(a4, a5, _U(8), _BYTES)
    result[i + 6 * _SQUARES], result[i + 7 * _SQUARES] = _swap(a6, a7, _U(8), _BYTES)


@numba.njit(inline="always")
def _swap(first, second, shift, low):
  """Swaps the high parts of the first word with the low ones of the second."""
  difference = ((first >> shift) ^ second) & low
  return first ^ (difference << shift), second ^ difference


@numba.njit
def _interleave(red, green, blue, pixels):
  for i in range(len(pixels) // 3):
    pixels[3 * i] = red[i]
    pixels[3 * i + 1] = green[i]
    pixels[3 * i + 2] = blue[i]
