"""Decoding the rows of a JPEG that a window needs, and no more of it, with libjpeg-turbo.

Most of the time goes into the entropy-coded data, which can only be read from its beginning: what
can be saved is all that lies below the window. libjpeg-turbo stops where the header says that the
image ends, so the header is made to say that it ends behind the window's last row. For ImageNet's
pictures and the paper's training view that saves a sixth of the decoding.
"""

import re
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg

from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.pillow import decode_with_pillow

# Rows below the last one that is needed from which its chroma is interpolated.
_MARGIN = 2
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Huffman-coded, sequential: all rows of a scan lie in their order.
_SEQUENTIAL = {0xC0, 0xC1}
# A coded block of 64 pixels takes one bit at least: what claims more pixels is damaged, and would
# have memory allocated for them.
_PIXELS_PER_BYTE = 64 * 8
_MAX_PIXELS = 2**28
# What libjpeg warns of where it stopped at the last row that it was told of, and data follow.
_STOPPED = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0x(d.)")
_END = "d9"
_DAMAGE = re.compile(r"Corrupt JPEG data: (premature|bad|found)|Premature end|Inconsistent")


class Frame(NamedTuple):
  """What a JPEG's frame header says.

  Attributes:
    height: Height in pixels.
    width: Width in pixels.
    components: 1 for grey, 3 for colour, 4 for CMYK.
    sequential: Whether rows are coded one after the other, once.
    height_at: Where in the file the two bytes of the height lie.
  """

  height: int
  width: int
  components: int
  sequential: bool
  height_at: int


def read_frame(encoded: bytes) -> Frame | None:
  """Finds the frame header of a JPEG of 8 bits a sample; None where the bytes begin otherwise."""
  if encoded[:2] != b"\xff\xd8":
    return None
  at, end = 2, len(encoded) - 9
  while at < end and encoded[at] == 0xFF:
    marker = encoded[at + 1]
    if marker == 0xFF or marker in _STANDALONE:  # Fill bytes, and markers without a length.
      at += 1 if marker == 0xFF else 2
    elif marker in _FRAMES:
      bits, height, width, components = struct.unpack_from(">BHHB", encoded, at + 4)
      if bits != 8 or not height or not width:
        return None
      return Frame(height, width, components, marker in _SEQUENTIAL, at + 5)
    elif marker == _START_OF_SCAN:
      return None
    else:
      at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
  return None


def decode_rows(encoded: bytes, frame: Frame, rows: int, reduction: int) -> np.ndarray:
  """Decodes the first rows of a JPEG as RGB.

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
  height = frame.height
  if height * frame.width > min(_MAX_PIXELS * reduction**2, _PIXELS_PER_BYTE * len(encoded)):
    raise UndecodableError(f"{len(encoded)} bytes cannot be {height}x{frame.width} pixels")
  # The entropy-coded data holds no such bytes, so a file without them lacks its end.
  if encoded.rfind(_END_OF_IMAGE, frame.height_at) < 0:
    raise UndecodableError("the file is cut short")
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


def _header_is_clean(encoded: bytes | bytearray) -> bool:
  try:
    simplejpeg.decode_jpeg_header(encoded)
  except ValueError:
    return False
  return True
