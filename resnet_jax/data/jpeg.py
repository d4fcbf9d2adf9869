"""Decoding the part of a JPEG that a window needs, and as little else as can be.

Most of the time goes into the entropy-coded data, which can only be read from its beginning. Of
most files a rectangle can be decoded alone (`jpeg_window.py`): what lies outside it is passed, not
decoded, and what lies below it not even that. Whole images, large ones, and files that are coded in
rarer ways or damaged, are decoded by libjpeg-turbo, as far as the last row that is needed. The
pixels are the same.
"""

import re
import struct

import numpy as np
import simplejpeg

from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.jpeg_header import Frame, is_cut_short, read_scan
from resnet_jax.data.jpeg_window import show_window
from resnet_jax.data.pillow import decode_with_pillow
from resnet_jax.data.resample_planes import resize_image
from resnet_jax.data.windows import Part, Window

# Rows that libjpeg decodes beyond those that are needed, which it interpolates colour from.
_MARGIN = 2
# libjpeg does not interpolate colour of fewer columns.
_LEAST_INTERPOLATED = 5
# A coded block of 64 pixels takes one bit at least: what claims more pixels is damaged, and would
# have memory allocated for them.
_PIXELS_PER_BYTE = 64 * 8
_MAX_PIXELS = 2**28
# What libjpeg warns of where it stopped at the last row that it was told of, and data follow.
_STOPPED = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0x(d.)")
_END = "d9"
_DAMAGE = re.compile(r"Corrupt JPEG data: (premature|bad|found)|Premature end|Inconsistent")


def show_part(encoded: bytes, frame: Frame, part: Part, window: Window, result: np.ndarray) -> None:
  """Decodes a rectangle of a JPEG, and resizes a window in it as `resample.resize_window` does.

  Args:
    encoded: The file.
    frame: Its header, of 1 or 3 components.
    part: The rectangle, on which the window depends; of `windows.Part.is_small` size.
    window: The part of the image that is shown.
    result: (height, width, 3) uint8, contiguous, which is written to.

  Raises:
    UndecodableError: If the file is cut short anywhere, or damaged before the rectangle's last
      pixel.
  """
  scan, edges = read_scan(encoded), tuple(map(float, window))
  if scan and (scan.across == 1 or frame.width >= _LEAST_INTERPOLATED):
    _check(encoded, frame, 1)
    data = np.frombuffer(encoded, np.uint8)
    if show_window(data, *scan, frame.height, frame.width, part, edges, result):
      return
  left, top, right, bottom = part
  pixels = decode_rows(encoded, frame, bottom, 1)[top:bottom, left:right].copy()
  resize_image(pixels, left, top, frame.height, frame.width, edges, result)


def decode_rows(encoded: bytes, frame: Frame, rows: int, reduction: int) -> np.ndarray:
  """Decodes the first rows of a JPEG as RGB, with libjpeg-turbo.

  It stops where the header says that the image ends, so the header is made to say that it ends
  behind the last row that is needed.

  Args:
    encoded: The file.
    frame: Its header, of 1 or 3 components.
    rows: Rows that are needed; more may come.
    reduction: 1, 2, 4 or 8: decode to this fraction of height and width, rounded up.

  Returns:
    (H, W, 3) uint8. The needed rows are those of the whole image, bit for bit.

  Raises:
    UndecodableError: If the file is cut short anywhere, or damaged within these rows.
  """
  _check(encoded, frame, reduction)
  height = frame.height
  needed = rows + _MARGIN * reduction
  data: bytes | bytearray = encoded
  if frame.sequential and needed < height:
    height, data = needed, bytearray(encoded)
    struct.pack_into(">H", data, frame.height_at, height)
  shape = (-(-height // reduction), -(-frame.width // reduction), 3)
  pixels = np.empty(shape, np.uint8)
  try:
    # Not with libjpeg's faster cosine transform, TensorFlow's default: it saves 2 % and errs by as
    # much as a grey level, mostly towards black.
    simplejpeg.decode_jpeg(
      data, min_height=shape[0], min_width=shape[1], min_factor=reduction, buffer=pixels
    )
  except ValueError as error:
    # An error; or, when all is decoded, the first warning that there was.
    message = str(error)
    if _DAMAGE.match(message):
      raise UndecodableError(message) from None
    stopped = _STOPPED.match(message)
    if stopped and (stopped[1] == _END or _header_is_clean(data)):
      return pixels
    # Something is odd in a header, which raises before anything is decoded; or Pillow refuses, too.
    return decode_with_pillow(encoded, shape[:2])
  return pixels


def _check(encoded: bytes, frame: Frame, reduction: int) -> None:
  """Raises `UndecodableError` if a file cannot be what its header says, or lacks its end."""
  pixels = frame.height * frame.width
  if pixels > min(_MAX_PIXELS * reduction**2, _PIXELS_PER_BYTE * len(encoded)):
    raise UndecodableError(f"{len(encoded)} bytes cannot be {frame.height}x{frame.width} pixels")
  if is_cut_short(encoded, frame):
    raise UndecodableError("the file is cut short")


def _header_is_clean(encoded: bytes | bytearray) -> bool:
  try:
    simplejpeg.decode_jpeg_header(encoded)
  except ValueError:
    return False
  return True
