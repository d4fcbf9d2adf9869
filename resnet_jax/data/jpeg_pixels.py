"""From the coefficients of a JPEG's blocks to the pixels of libjpeg-turbo, compiled by Numba.

Bit for bit: it is its accurate integer transform, its interpolation of colour that was stored at
half the resolution ("fancy upsampling"), and its conversion to RGB, all with its rounding.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from resnet_jax.data.jpeg_blocks import GROUP
from resnet_jax.data.jpeg_tables import COEFFICIENTS

_SIDE = 8
# Numba widens sums of 32-bit integers, for which vectors have half the lanes.
_I, _U = np.int32, np.uint64

# Constants of Loeffler, Ligtenberg and Moschytz 1989, times 2**13.
_CONSTANT_BITS, _FIRST_PASS_BITS = 13, 2
_C0_298, _C0_390, _C0_541, _C0_765 = 2446, 3196, 4433, 6270
_C0_899, _C1_175, _C1_501, _C1_847 = 7373, 9633, 12299, 15137
_C1_961, _C2_053, _C2_562, _C3_072 = 16069, 16819, 20995, 25172

# JFIF's conversion, times 2**16.
_RED_OF_CR, _BLUE_OF_CB, _GREEN_OF_CR, _GREEN_OF_CB = 91881, 116130, -46802, -22554
_HALF = 1 << 15


def _one_pass(stride: int, shift: int) -> Callable[..., Any]:
  """A pass of the inverse cosine transform over eight numbers of each of `GROUP` blocks.

  With its constants compiled in, the loop over the blocks becomes one over vectors.

  Args:
    stride: From each of the eight to the next, in an array of (64, GROUP), flat.
    shift: Bits of fraction to round off.
  """
  half = 1 << (shift - 1)

  @numba.njit
  def transform(given, start, result, at):
    """Transforms given[start], given[start + stride], … to result[at], result[at + stride], …"""
    given = given[start : start + 7 * stride + GROUP]
    result = result[at : at + 7 * stride + GROUP]
    for i in range(GROUP):
      x0, x1 = _I(given[i]), _I(given[i + stride])
      x2, x3 = _I(given[i + 2 * stride]), _I(given[i + 3 * stride])
      x4, x5 = _I(given[i + 4 * stride]), _I(given[i + 5 * stride])
      x6, x7 = _I(given[i + 6 * stride]), _I(given[i + 7 * stride])

      z1 = _I(_I(x2 + x6) * _C0_541)
      even2, even3 = _I(z1 - x6 * _C1_847), _I(z1 + x2 * _C0_765)
      even0, even1 = _I(_I(x0 + x4) << _CONSTANT_BITS), _I(_I(x0 - x4) << _CONSTANT_BITS)
      sum0, sum3 = _I(even0 + even3 + half), _I(even0 - even3 + half)
      sum1, sum2 = _I(even1 + even2 + half), _I(even1 - even2 + half)

      z1, z2, z3, z4 = _I(x7 + x1), _I(x5 + x3), _I(x7 + x3), _I(x5 + x1)
      z5 = _I(_I(z3 + z4) * _C1_175)
      z1, z2 = _I(-z1 * _C0_899), _I(-z2 * _C2_562)
      z3, z4 = _I(z5 - z3 * _C1_961), _I(z5 - z4 * _C0_390)
      odd0, odd1 = _I(x7 * _C0_298 + z1 + z3), _I(x5 * _C2_053 + z2 + z4)
      odd2, odd3 = _I(x3 * _C3_072 + z2 + z3), _I(x1 * _C1_501 + z1 + z4)

      result[i] = _I(sum0 + odd3) >> shift
      result[i + 7 * stride] = _I(sum0 - odd3) >> shift
      result[i + stride] = _I(sum1 + odd2) >> shift
      result[i + 6 * stride] = _I(sum1 - odd2) >> shift
      result[i + 2 * stride] = _I(sum2 + odd1) >> shift
      result[i + 5 * stride] = _I(sum2 - odd1) >> shift
      result[i + 3 * stride] = _I(sum3 + odd0) >> shift
      result[i + 4 * stride] = _I(sum3 - odd0) >> shift

  return transform


_down_columns = _one_pass(_SIDE * GROUP, _CONSTANT_BITS - _FIRST_PASS_BITS)
_along_rows = _one_pass(GROUP, _CONSTANT_BITS + _FIRST_PASS_BITS + 3)


@numba.njit(inline="always")
def _sample(value, shift):
  """A sample that is centred at 0, as an unsigned byte, shifted."""
  return _U(min(max(_I(value + 128), _I(0)), _I(255))) << _U(shift)


@numba.njit
def _pack(samples, at, words):
  """Packs eight rows of `GROUP` samples into `GROUP` words, the first lowest."""
  samples = samples[at : at + _SIDE * GROUP]
  for i in range(GROUP):
    words[i] = (
      _sample(samples[i], 0)
      | _sample(samples[i + GROUP], 8)
      | _sample(samples[i + 2 * GROUP], 16)
      | _sample(samples[i + 3 * GROUP], 24)
      | _sample(samples[i + 4 * GROUP], 32)
      | _sample(samples[i + 5 * GROUP], 40)
      | _sample(samples[i + 6 * GROUP], 48)
      | _sample(samples[i + 7 * GROUP], 56)
    )


@numba.njit
def _plane(groups, a_row):
  """The samples of a component.

  Args:
    groups: (groups, 64, GROUP) int16, of `jpeg_blocks.decode_blocks`.
    a_row: Groups in a row.

  Returns:
    (H, W) uint8.
  """
  # Eight samples side by side are a word.
  words = np.empty((len(groups) // a_row * _SIDE, a_row * GROUP), np.uint64)
  beyond = _I(0)
  coefficients = groups.reshape(-1)
  block = COEFFICIENTS * GROUP
  first, second = np.empty(block, np.int32), np.empty(block, np.int32)
  for group in range(len(groups)):
    for k in range(_SIDE):
      _down_columns(coefficients, group * block + k * GROUP, first, k * GROUP)
    for i in range(block):
      beyond |= _I(first[i] + 2**15) >> 16
    for k in range(_SIDE):
      _along_rows(first, k * _SIDE * GROUP, second, k * _SIDE * GROUP)
    top, left = group // a_row * _SIDE, group % a_row * GROUP
    for row in range(_SIDE):
      _pack(second, row * _SIDE * GROUP, words[top + row, left : left + GROUP])
  return words.view(np.uint8), beyond == 0


@numba.njit
def _interpolate(plane, origin, size, down, y, first, result):
  """One row of colour at twice the resolution across, and if `down` is 2 down.

  Each pixel is 3/4 the sample that it lies in and 1/4 the next one, in each direction; beyond the
  picture samples are repeated.

  Args:
    plane: (H, W) uint8, stored samples.
    origin: Row and column of the picture's samples where the plane begins.
    size: Rows and columns of the picture's samples.
    down: Rows of pixels in a row of samples.
    y: The row of pixels.
    first: The column of samples of the first pixel.
    result: (2 N,) uint8, which gets the pixels of N columns of samples.
  """
  top, left = origin
  rows, columns = size
  count = len(result) // 2
  begin, end = first - left, first - left + count
  # Whether there are samples before the first and behind the last.
  before, behind = first > 0, first + count < columns
  sums = np.empty(count + 2, np.int32)
  row = y // down
  if down == 1:
    sums[1:-1] = plane[row - top, begin:end]
    sums[0] = plane[row - top, begin - before]
    sums[-1] = plane[row - top, end - 1 + behind]
    even, odd, shift = 1, 2, 2
  else:
    other = min(max(row + (1 if y % 2 else -1), 0), rows - 1)
    near, far = plane[row - top], plane[other - top]
    _weigh(near[begin:end], far[begin:end], sums[1:-1])
    _weigh(near[begin - before :], far[begin - before :], sums[:1])
    _weigh(near[end - 1 + behind :], far[end - 1 + behind :], sums[-1:])
    even, odd, shift = 8, 7, 4
  pairs = result.view(np.uint16)
  middle, previous, following = sums[1:-1], sums[:-2], sums[2:]
  for i in range(count):
    first_of_pair = _I(3 * middle[i] + previous[i] + even) >> shift
    second_of_pair = _I(3 * middle[i] + following[i] + odd) >> shift
    pairs[i] = np.uint16(_I(first_of_pair | second_of_pair << 8))


@numba.njit
def _weigh(near, far, sums):
  """Adds samples at weights of three and one, as many as there are sums."""
  for i in range(len(sums)):
    sums[i] = _I(3 * _I(near[i]) + _I(far[i]))


@numba.njit
def _convert(brightness, blue, red, reds, greens, blues):
  """A row of RGB: from three times (W,) uint8 to the first W of three times uint8."""
  for i in range(len(brightness)):
    y, cb, cr = _I(brightness[i]), _I(_I(blue[i]) - 128), _I(_I(red[i]) - 128)
    reds[i] = _clipped(y + (_I(cr * _RED_OF_CR + _HALF) >> 16))
    greens[i] = _clipped(y + (_I(cb * _GREEN_OF_CB + cr * _GREEN_OF_CR + _HALF) >> 16))
    blues[i] = _clipped(y + (_I(cb * _BLUE_OF_CB + _HALF) >> 16))


@numba.njit
def _clipped(value):
  return np.uint8(min(max(_I(value), _I(0)), _I(255)))


@numba.njit
def make_pixels(groups, components, across, down, units, height, width, part, planes):
  """Pixels of a rectangle of a picture.

  Args:
    groups: (groups, 64, GROUP) int16, of `jpeg_blocks.decode_blocks`.
    components: 1 for grey, 3 for YCbCr.
    across: Columns of brightness for each of colour, 1 or 2.
    down: Rows of brightness for each of colour, 1 or 2.
    units: As `decode_blocks`'s `part`: which units the groups are of.
    height: Rows of the picture.
    width: Columns of the picture.
    part: The rectangle, a `windows.Part`, H by W pixels. It lies in the picture and in the units;
      in these with two pixels around it where colour is interpolated, but for the picture's edges.
    planes: (3 H or more, W or more) uint8, which gets the red rows, below them the green ones and
      below them the blue ones.

  Returns:
    Whether libjpeg's 16 bits hold what is between the two passes of the transform, which they do
    unless the file is damaged.
  """
  left, top, right, bottom = part
  rows, columns = (units[3] - units[1]) * down, (units[2] - units[0]) * across
  a_row = (columns + GROUP - 1) // GROUP
  count = rows * a_row
  brightness, fits = _plane(groups[:count], a_row)
  if not fits:
    return False
  x0, y0, high = units[0] * across * _SIDE, units[1] * down * _SIDE, bottom - top
  if components == 1:
    for y in range(top, bottom):
      for plane in range(3):
        _copy(brightness[y - y0, left - x0 : right - x0], planes[plane * high + y - top])
    return True
  a_row = (units[2] - units[0] + GROUP - 1) // GROUP
  others = (units[3] - units[1]) * a_row
  blue, blue_fits = _plane(groups[count : count + others], a_row)
  red, red_fits = _plane(groups[count + others :], a_row)
  if not (blue_fits and red_fits):
    return False
  size = ((height + down - 1) // down, (width + across - 1) // across)
  first = left // across
  samples = (right - 1) // across + 1 - first
  blues, reds = np.empty(samples * across, np.uint8), np.empty(samples * across, np.uint8)
  for y in range(top, bottom):
    row = y - y0
    if across == 1:
      blues[:] = blue[row, left - x0 : right - x0]
      reds[:] = red[row, left - x0 : right - x0]
    else:
      origin = y0 // down, x0 // across
      _interpolate(blue, origin, size, down, y, first, blues)
      _interpolate(red, origin, size, down, y, first, reds)
    _convert(
      brightness[row, left - x0 : right - x0],
      blues[left % across :],
      reds[left % across :],
      planes[y - top],
      planes[high + y - top],
      planes[2 * high + y - top],
    )
  return True


@numba.njit
def _copy(given, result):
  for i in range(len(given)):
    result[i] = given[i]
