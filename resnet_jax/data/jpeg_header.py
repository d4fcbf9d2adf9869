"""What the headers of a JPEG say: its frame, and where the coded data lie and how they are coded.

Sections are of ITU-T T.81, the standard.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_HUFFMAN_TABLES = 0xC4
_QUANTIZATION_TABLES = 0xDB
_RESTART_INTERVAL = 0xDD
_JFIF, _ADOBE = 0xE0, 0xEE
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Huffman-coded, sequential: all rows of a scan lie in their order.
_SEQUENTIAL = {0xC0, 0xC1}
# Horizontal and vertical sampling of brightness, one number in a byte, where colour's is 1 by 1:
# 4:4:4, 4:2:2 and 4:2:0.
_SAMPLINGS = {0x11: (1, 1), 0x21: (2, 1), 0x22: (2, 2)}
# Every coefficient of a block, at once and to its last bit: what a sequential scan says of itself.
_WHOLE = bytes([0, 63, 0])


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


class Scan(NamedTuple):
  """How a sequential JPEG is coded, grey or YCbCr, in one scan without restarts.

  Attributes:
    start: Where in the file the entropy-coded data begin.
    across: Columns of brightness for each of colour, 1 or 2; 1 for grey.
    down: Rows of brightness for each of colour, 1 or 2; 1 for grey.
    quantization: (components, 64) uint8, in the order of the file.
    selectors: (components, 2) uint8, which of `tables` a component has for its means (DC) and for
      its alternating coefficients (AC).
    tables: (8,) int64, where in the file Huffman tables begin: four of means, four of the rest; -1
      where there is none. Those that are selected lie whole in the file, on which
      `jpeg_tables` and `jpeg_blocks` rely: they read without bounds checks.
  """

  start: int
  across: int
  down: int
  quantization: np.ndarray
  selectors: np.ndarray
  tables: np.ndarray


def read_frame(encoded: bytes) -> Frame | None:
  """Finds the frame header of a JPEG of 8 bits a sample; None where the bytes begin otherwise."""
  for marker, start, end in _segments(encoded):
    if marker in _FRAMES:
      if not start + 6 <= end <= len(encoded):
        return None
      bits, height, width, components = struct.unpack_from(">BHHB", encoded, start)
      if bits != 8 or not height or not width:
        return None
      return Frame(height, width, components, marker in _SEQUENTIAL, start + 1)
  return None


def read_scan(encoded: bytes) -> Scan | None:
  """Finds how a JPEG is coded; None where it is in another way, or its headers are not whole."""
  components: list[tuple[int, int, int]] = []
  quantization: dict[int, bytes] = {}
  tables = [-1] * 8
  jfif, transform, plain = False, None, True
  for marker, start, end in _segments(encoded):
    if end > len(encoded):
      return None
    segment = encoded[start:end]
    if marker in _SEQUENTIAL:
      whole = not components and len(segment) > 6 and len(segment) == 6 + 3 * segment[5]
      components = list(struct.iter_unpack("BBB", segment[6:])) if whole else []
    elif marker == _JFIF:
      # libjpeg goes by no shorter one.
      jfif = jfif or (segment[:5] == b"JFIF\0" and len(segment) >= 14)
    elif marker == _ADOBE and segment[:5] == b"Adobe" and len(segment) >= 12:
      transform = segment[11]
    elif marker == _RESTART_INTERVAL:
      plain = plain and segment == bytes(2)
    elif marker == _QUANTIZATION_TABLES:
      quantization |= _read_steps(segment)
    elif marker == _HUFFMAN_TABLES:
      plain = _find_tables(segment, start, tables) and plain
    elif marker == _START_OF_SCAN:
      if not plain or not _is_gray_or_ycc(components, jfif, transform):
        return None
      return _scan(segment, end, components, quantization, tables)
  return None


def is_cut_short(encoded: bytes, frame: Frame) -> bool:
  """Whether a file lacks its end.

  The entropy-coded data hold no such bytes, so a file has them behind its frame if it is whole.
  """
  return encoded.rfind(_END_OF_IMAGE, frame.height_at) < 0


def _segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
  """(marker, start, end) of each segment's content, up to the first scan's, in the file's order."""
  if encoded[:2] != b"\xff\xd8":
    return
  at, last = 2, len(encoded) - 4
  while at <= last and encoded[at] == 0xFF:
    marker = encoded[at + 1]
    if marker == 0xFF or marker in _STANDALONE:  # Fill bytes, and markers without a length.
      at += 1 if marker == 0xFF else 2
      continue
    end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4])
    yield marker, at + 4, end
    if marker == _START_OF_SCAN:
      return
    at = end


def _read_steps(segment: bytes) -> dict[int, bytes]:
  """The quantization tables of a segment by their numbers.

  Nothing stands for those of 16 bits, and for all if the segment does not hold whole ones alone.
  """
  tables, at = {}, 0
  while at < len(segment):
    number, wide = segment[at] & 15, segment[at] >> 4
    tables[number] = b"" if wide else segment[at + 1 : at + 65]
    at += 129 if wide else 65
  whole = at == len(segment) and max(tables, default=0) <= 3
  return tables if whole else dict.fromkeys(range(4), b"")


def _find_tables(segment: bytes, start: int, tables: list[int]) -> bool:
  """Enters where the Huffman tables of a segment begin; whether it holds whole ones alone."""
  at = 0
  while at + 17 <= len(segment):
    number, symbols = segment[at], sum(segment[at + 1 : at + 17])
    if number & 0xEC or symbols > 256:
      return False
    tables[(number >> 2) + (number & 3)] = start + at + 1
    at += 17 + symbols
  return at == len(segment)


def _is_gray_or_ycc(
  components: list[tuple[int, int, int]], jfif: bool, transform: int | None
) -> bool:
  """Whether libjpeg would take it for these too; it goes by the markers, or else by the numbers."""
  if len(components) != 3:
    return len(components) == 1
  if jfif:
    return True
  if transform is not None:
    return transform == 1
  return [number for number, _, _ in components] == [1, 2, 3]


def _scan(
  segment: bytes,
  start: int,
  components: list[tuple[int, int, int]],
  quantization: dict[int, bytes],
  tables: list[int],
) -> Scan | None:
  """What `read_scan` gives, of the content of a scan's header and what was read before."""
  count = len(components)
  if len(segment) != 4 + 2 * count or segment[0] != count or segment[-3:] != _WHOLE:
    return None
  selectors, steps = bytearray(), bytearray()
  for row, (number, _, step) in enumerate(components):
    scanned, chosen = segment[1 + 2 * row], segment[2 + 2 * row]
    if scanned != number or chosen & 0xCC or step not in quantization:
      return None
    selectors += bytes((chosen >> 4, 4 + (chosen & 3)))
    steps += quantization[step]
  sampling = (1, 1) if count == 1 else _SAMPLINGS.get(components[0][1])
  if sampling is None or any(sampled != 0x11 for _, sampled, _ in components[1:]):
    return None
  if len(steps) != 64 * count or min(tables[selector] for selector in selectors) < 0:
    return None
  return Scan(
    start,
    *sampling,
    np.frombuffer(steps, np.uint8).reshape(count, 64),
    np.frombuffer(selectors, np.uint8).reshape(count, 2),
    np.array(tables, np.int64),
  )
