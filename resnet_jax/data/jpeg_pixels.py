"""From the samples of a JPEG to pixels, compiled by Numba.

Bit for bit they are libjpeg-turbo's: its interpolation of colour that was stored at half the
resolution ("fancy upsampling"), and its conversion to RGB, with all its rounding.
"""

import numba
import numpy as np

# Numba widens sums of 32-bit integers, for which vectors have half the lanes.
_I = np.int32

# JFIF's conversion, times 2**16.
_RED_OF_CR, _BLUE_OF_CB, _GREEN_OF_CR, _GREEN_OF_CB = 91881, 116130, -46802, -22554
_HALF = 1 << 15


@numba.njit
def make_pixels(samples, origin, gray, across, down, height, width, left, right, top, bottom, rows):
  """Some rows of pixels of a rectangle of a picture.

  Args:
    samples: Three times (H, W) uint8, of `jpeg_blocks.decode_samples`: brightness, blue and red.
    origin: Row and column of the picture at which they begin.
    gray: Whether brightness is all that there is.
    across: Columns of brightness for each of colour, 1 or 2.
    down: Rows of brightness for each of colour, 1 or 2.
    height: Rows of the picture.
    width: Columns of the picture.
    left: The first column, of the picture.
    right: Behind the last column.
    top: The first row.
    bottom: Behind the last row.
    rows: (3, N or more, W or more) uint8, which gets the N rows of red, green and blue.
  """
  brightness, blue, red = samples
  y0, x0 = origin
  begin, end = left - x0, right - x0
  if gray:
    for y in range(top, bottom):
      rows[:, y - top, : end - begin] = brightness[y - y0, begin:end]
    return
  size = ((height + down - 1) // down, (width + across - 1) // across)
  first = left // across
  count = (right - 1) // across + 1 - first
  blues, reds = np.empty(count * across, np.uint8), np.empty(count * across, np.uint8)
  for y in range(top, bottom):
    if across == 1:
      blues[:] = blue[y - y0, begin:end]
      reds[:] = red[y - y0, begin:end]
    else:
      corner = y0 // down, x0 // across
      _interpolate(blue, corner, size, down, y, first, blues)
      _interpolate(red, corner, size, down, y, first, reds)
    _convert(
      brightness[y - y0, begin:end],
      blues[left % across :],
      reds[left % across :],
      rows[0, y - top],
      rows[1, y - top],
      rows[2, y - top],
    )


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
