"""From the bytes of a JPEG to a window of it, resized, by one function that Numba compiles.

It runs without Python's lock from the first to the last: to give the lock back and wait for it
between its parts would keep threads from their cores.
"""

from collections.abc import Callable
from typing import Any

from resnet_jax.data import (
  jpeg_bits,
  jpeg_blocks,
  jpeg_pixels,
  jpeg_tables,
  jpeg_transform,
  resample_planes,
)
from resnet_jax.data.compiled import compiled, digest_of_sources
from resnet_jax.data.jpeg_blocks import decode_samples
from resnet_jax.data.jpeg_pixels import make_pixels
from resnet_jax.data.jpeg_transform import SIDE
from resnet_jax.data.resample_planes import (
  STRIP,
  empty_strip,
  empty_strips,
  resize_columns,
  resize_rows,
  weigh,
)

# From so many pixels to each side colour is interpolated.
_MARGIN = 2


def _made_of(sources: str) -> Callable[..., Any]:
  """The function as compiled of these sources: what was kept of others is not taken for it."""

  @compiled
  def show_window(
    data,
    start,
    across,
    down,
    quantization,
    selectors,
    tables,
    height,
    width,
    part,
    window,
    result,
  ):
    """Resizes a window of a sequential JPEG, of which no more is decoded than a rectangle.

    Args:
      data: (bytes,) uint8, the file.
      start: As the next five, of `jpeg_header.Scan`.
      across: See there.
      down: See there.
      quantization: See there.
      selectors: See there.
      tables: See there.
      height: Rows of the picture.
      width: Columns of the picture.
      part: The rectangle of pixels on which the window depends.
      window: Left, top, right and bottom edge, float.
      result: (rows, columns, 3) uint8, which is written to unless there is damage.

    Returns:
      Whether there is no damage before the last pixel.
    """
    assert sources
    left, top, right, bottom = part
    wide, high = SIDE * across, SIDE * down
    beside, above = _MARGIN * (across - 1), _MARGIN * (down - 1)
    a_row = (width + wide - 1) // wide
    units = (
      max(0, left - beside) // wide,
      max(0, top - above) // high,
      min(a_row, (right + beside + wide - 1) // wide),
      min((height + high - 1) // high, (bottom + above + high - 1) // high),
    )
    sound, samples = decode_samples(
      data, start, across, down, quantization, selectors, tables, a_row, units
    )
    if not sound:
      return False
    origin = units[1] * high, units[0] * wide
    gray, rows = len(selectors) == 1, bottom - top
    along = weigh(left, right - left, width, window[0], window[2], result.shape[1])
    upright = weigh(top, rows, height, window[1], window[3], result.shape[0])
    strip, narrow = empty_strip(right - left), empty_strips(rows, result.shape[1])
    for number in range(len(narrow)):
      begin = top + number * STRIP
      end = min(begin + STRIP, bottom)
      make_pixels(
        samples, origin, gray, across, down, height, width, left, right, begin, end, strip
      )
      resize_rows(strip, along, narrow[number])
    resize_columns(narrow, upright, result)
    return True

  return show_window


show_window = _made_of(
  digest_of_sources(
    jpeg_bits, jpeg_blocks, jpeg_pixels, jpeg_tables, jpeg_transform, resample_planes
  )
)
