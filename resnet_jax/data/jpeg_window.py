"""From the bytes of a JPEG to a window of it, resized, by one function that Numba compiles.

It runs without Python's lock from the first to the last: to give the lock back and wait for it
between its parts would keep threads from their cores.
"""

from collections.abc import Callable
from typing import Any

from resnet_jax.data import jpeg_bits, jpeg_blocks, jpeg_pixels, jpeg_tables, resample_planes
from resnet_jax.data.compiled import compiled, digest_of_sources
from resnet_jax.data.jpeg_blocks import decode_blocks
from resnet_jax.data.jpeg_pixels import make_pixels
from resnet_jax.data.resample_planes import empty_planes, resize_planes

_SIDE = 8
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
    wide, high = _SIDE * across, _SIDE * down
    beside, above = _MARGIN * (across - 1), _MARGIN * (down - 1)
    a_row = (width + wide - 1) // wide
    units = (
      max(0, left - beside) // wide,
      max(0, top - above) // high,
      min(a_row, (right + beside + wide - 1) // wide),
      min((height + high - 1) // high, (bottom + above + high - 1) // high),
    )
    groups = decode_blocks(data, start, across, down, quantization, selectors, tables, a_row, units)
    if groups is None:
      return False
    rows, columns = bottom - top, right - left
    planes = empty_planes(rows, columns)
    if not make_pixels(groups, len(selectors), across, down, units, height, width, part, planes):
      return False
    resize_planes(planes, rows, columns, left, top, height, width, window, result)
    return True

  return show_window


show_window = _made_of(
  digest_of_sources(jpeg_bits, jpeg_blocks, jpeg_pixels, jpeg_tables, resample_planes)
)
