"""JPEGs taken apart into their segments, for the tests of reading headers."""

from collections.abc import Iterator

SOF, DHT, SOS, DQT, DRI = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD
JFIF, ADOBE = 0xE0, 0xEE

Segments = list[tuple[int, bytes]]


def take_apart(encoded: bytes) -> tuple[Segments, bytes]:
  """(marker, content) of each segment up to the scan's header, and all that follows."""
  segments, at = [], 2
  while True:
    marker, end = encoded[at + 1], at + 2 + int.from_bytes(encoded[at + 2 : at + 4])
    segments.append((marker, encoded[at + 4 : end]))
    if marker == SOS:
      return segments, encoded[end:]
    at = end


def put_together(segments: Segments, rest: bytes, fill: int = 0) -> bytes:
  """The file again, with fill bytes before each marker."""
  parts = [b"\xff\xd8"]
  for marker, content in segments:
    parts.append(b"\xff" * fill + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content)
  return b"".join(parts) + rest


def quantization_tables(segments: Segments) -> Iterator[tuple[int, bytes]]:
  """(number, 64 steps) of each table, of 8 bits."""
  for marker, content in segments:
    if marker == DQT:
      for at in range(0, len(content), 65):
        yield content[at], content[at + 1 : at + 65]


def huffman_tables(segments: Segments) -> Iterator[bytes]:
  """Each table with its number in front."""
  for marker, content in segments:
    at = 0
    while marker == DHT and at < len(content):
      end = at + 17 + sum(content[at + 1 : at + 17])
      yield content[at:end]
      at = end
