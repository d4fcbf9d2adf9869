"""Tests of resnet_jax.data.jpeg.show_part with files that are damaged, or made to do harm."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys

import jpeg_segments
import numpy as np
import PIL.Image
import pytest
import simplejpeg
from jpeg_parts import decode_part
from jpeg_segments import put_together, take_apart
from pictures import encode, noise, scene

from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.jpeg_header import read_frame, read_scan
from resnet_jax.data.windows import Part

PROGRAM = pathlib.Path(__file__).parent / "damaged_jpegs.py"
HEIGHT, WIDTH = 61, 83
DIFFERENCES = {"libjpeg finds damage", "other pixels"}
WHOLE = Part(0, 0, WIDTH, HEIGHT)
COLOR = encode(scene(HEIGHT, WIDTH), quality=90)
GREY = encode(scene(HEIGHT, WIDTH).convert("L"), quality=90)


def decode(encoded: bytes, part: Part = WHOLE) -> np.ndarray:
  frame = read_frame(encoded)
  assert frame is not None
  return decode_part(encoded, frame, part)


def assert_undecodable(encoded: bytes, part: Part = WHOLE) -> None:
  with pytest.raises(UndecodableError):
    decode(encoded, part)


def changed(encoded: bytes, marker: int, change) -> bytes:
  """A file with the content of the first segment of a kind changed."""
  segments, rest = take_apart(encoded)
  at = [found for found, _ in segments].index(marker)
  body = bytearray(segments[at][1])
  result = change(body)
  segments[at] = marker, bytes(body if result is None else result)
  return put_together(segments, rest)


def with_byte(encoded: bytes, marker: int, at: int, value: int) -> bytes:
  return changed(encoded, marker, lambda body: body.__setitem__(at, value))


@pytest.fixture(scope="module")
def outcome() -> dict:
  """What came of some hundred damaged files, in a process of its own."""
  command = [sys.executable, str(PROGRAM), "0", "1500"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 0, f"ended with {done.returncode} at {done.stderr[-2000:]}"
  return json.loads(done.stdout)


def test_damage_is_refused_or_gives_an_array_of_the_right_shape(outcome):
  counts = outcome["counts"]
  assert counts["decoded"] > 300 and counts["refused"] > 300 and counts["read_scan"] > 600
  assert not outcome["odd"].keys() - DIFFERENCES, outcome["odd"]


def test_damage_costs_no_memory(outcome):
  assert outcome["memory"] < 100e6


def test_damaged_data_are_decoded_as_libjpeg_decodes_them(outcome):
  both = outcome["counts"]["data: decoded by both"]
  assert both > 200
  assert not outcome["odd"].get("other pixels")
  # Damage to the right of a part, or just below it, is libjpeg's alone to find.
  assert len(outcome["odd"].get("libjpeg finds damage", [])) < 0.1 * both


@pytest.mark.parametrize("part", [WHOLE, Part(30, 20, 40, 30), Part(82, 60, 83, 61)])
def test_data_that_end_early_are_refused_where_they_are_needed(part):
  segments, rest = take_apart(encode(noise(HEIGHT, WIDTH)))
  for end in (0, 1, 7, 8, 9, 100):
    assert_undecodable(put_together(segments, rest[:end] + b"\xff\xd9"), part)
    assert_undecodable(put_together(segments, rest[:end]), part)


def test_a_part_above_the_end_of_the_data_is_decoded():
  whole = encode(noise(160, WIDTH))
  segments, rest = take_apart(whole)
  cut = put_together(segments, rest[: len(rest) // 2] + b"\xff\xd9")
  part = Part(10, 5, 60, 40)
  np.testing.assert_array_equal(decode(cut, part), decode(whole, part))
  assert_undecodable(cut, Part(10, 5, 60, 160))


def test_data_that_end_at_each_byte():
  encoded = encode(noise(16, 16), quality=95)
  segments, rest = take_apart(encoded)
  for end in range(len(rest) - 2):
    ended = put_together(segments, rest[:end] + b"\xff\xd9")
    try:
      found = decode(ended, Part(0, 0, 16, 16))
    except UndecodableError:
      continue
    expected = simplejpeg.decode_jpeg(ended)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("length", range(10))
def test_a_scan_header_that_is_too_short_is_refused(length):
  cut = changed(COLOR, jpeg_segments.SOS, lambda body: body[:length])
  assert read_scan(cut) is None
  assert_undecodable(cut)


@pytest.mark.parametrize("length", [6, 9, 12])
def test_a_frame_header_that_lacks_components_is_refused(length):
  assert_undecodable(changed(COLOR, jpeg_segments.SOF, lambda body: body[:length]))


@pytest.mark.parametrize("length", [*range(1, 6), 7, 8, 10, 11, 13, 14])
def test_a_frame_header_that_is_cut_short_is_refused(length):
  encoded = changed(COLOR, jpeg_segments.SOF, lambda body: body[:length])
  if length < 6:
    assert read_frame(encoded) is None
  else:
    assert_undecodable(encoded)


@pytest.mark.parametrize("marker", [jpeg_segments.DHT, jpeg_segments.DQT])
def test_tables_of_any_length_are_refused(marker):
  segments, _ = take_apart(GREY)
  # Not without any: libjpeg has tables of its own then.
  for length in range(1, len(next(content for found, content in segments if found == marker))):
    cut = changed(GREY, marker, lambda body, length=length: body[:length])
    assert read_scan(cut) is None
    assert_undecodable(cut)


@pytest.mark.parametrize("number", [0, 2, 4, 5, 255])
def test_other_counts_of_components_are_refused(number):
  encoded = with_byte(COLOR, jpeg_segments.SOF, 5, number)
  assert_undecodable(encoded)


@pytest.mark.parametrize("chosen", [0x02, 0x20, 0x33, 0x04, 0x40, 0x0F, 0xF0, 0xFF])
@pytest.mark.parametrize("component", range(3))
def test_huffman_tables_that_do_not_exist_are_refused(chosen, component):
  encoded = with_byte(COLOR, jpeg_segments.SOS, 2 + 2 * component, chosen)
  assert read_scan(encoded) is None
  assert_undecodable(encoded)


@pytest.mark.parametrize("number", [2, 3, 4, 128, 255])
def test_quantization_tables_that_do_not_exist_are_refused(number):
  encoded = with_byte(COLOR, jpeg_segments.SOF, 8, number)
  assert read_scan(encoded) is None
  assert_undecodable(encoded)


@pytest.mark.parametrize("place", range(1, 17))
def test_too_many_codes_are_refused(place):
  """Of a length, in the segment, and in all."""
  for count in (100, 255):
    encoded = with_byte(GREY, jpeg_segments.DHT, place, count)
    assert_undecodable(encoded)


@pytest.mark.parametrize("length", range(1, 8))
def test_more_codes_than_a_length_has_are_refused(length):
  counts = bytes((1 << length) + 1 if i == length else 0 for i in range(1, 17))
  table = b"\0" + counts + bytes(i % 12 for i in range((1 << length) + 1))
  encoded = changed(GREY, jpeg_segments.DHT, lambda _: table)
  assert read_scan(encoded) is not None
  assert_undecodable(encoded)


@pytest.mark.parametrize("size", [1, 12, 15, 16, 255])
def test_means_of_any_size(size):
  """Differences of more bits than a mean has are read by libjpeg alone, or not at all."""
  symbols = bytes([size]) * 12
  encoded = changed(GREY, jpeg_segments.DHT, lambda body: body[:17] + symbols)
  try:
    found = decode(encoded)
  except UndecodableError:
    return
  expected = simplejpeg.decode_jpeg(encoded, strict=False)
  np.testing.assert_array_equal(found, expected)


def made_by_hand(dc: bytes, ac: bytes, step: int, bits: str, height=8, width=8) -> bytes:
  """A grey image: codes of 8 bits, each of which says the symbol of its number in the table."""
  bits += "1" * (-len(bits) % 8)
  data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
  tables = b"".join(
    bytes([number, 0, 0, 0, 0, 0, 0, 0, len(symbols), 0, 0, 0, 0, 0, 0, 0, 0]) + symbols
    for number, symbols in ((0, dc), (0x10, ac))
  )
  frame = b"\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\x01\x01\x11\x00"
  segments = [
    (jpeg_segments.DQT, bytes([0, *[step] * 64])),
    (jpeg_segments.DHT, tables),
    (jpeg_segments.SOF, frame),
    (jpeg_segments.SOS, b"\x01\x01\x00\x00\x3f\x00"),
  ]
  return put_together(segments, data + b"\xff\xd9")


@pytest.mark.parametrize(
  "runs", [[15] * 4, [15, 15, 15, 13], [15, 15, 15, 14], [15] * 8, [62 - 48]]
)
def test_runs_past_the_end_of_a_block_are_as_libjpeg_reads_them(runs):
  """Of three blocks the first has runs of zeros, each before a coefficient, up to its end."""
  ac = bytes([0, *(16 * run + 1 for run in range(16))])
  first = "".join(f"{1 + run:08b}1" for run in runs)
  tail = "" if sum(runs) + len(runs) >= 63 else "00000000"
  bits = "00000000" + first + tail + ("00000000" * 2) * 2
  encoded = made_by_hand(bytes([0, 1]), ac, 16, bits, width=24)
  for part in (Part(0, 0, 24, 8), Part(16, 0, 24, 8)):
    try:
      found = decode(encoded, part)
    except UndecodableError:
      with pytest.raises(ValueError):
        simplejpeg.decode_jpeg(encoded)
      continue
    expected = simplejpeg.decode_jpeg(encoded)
    np.testing.assert_array_equal(found, expected[part.top : part.bottom, part.left : part.right])


def drifting(blocks: int, sign: str, step: int) -> bytes:
  """Each block's mean is the largest difference, 2047, from the one before."""
  bits = ("00000001" + sign * 11 + "00000000") * blocks
  return made_by_hand(bytes([0, 11]), bytes([0]), step, bits, width=8 * blocks)


def with_coefficient(size: int, sign: str, step: int) -> bytes:
  """A block with the largest coefficient of so many bits."""
  bits = "00000000" + ("00000001" + sign * size) + "00000000"
  return made_by_hand(bytes([0]), bytes([0, size]), step, bits)


def assert_equal_to_libjpeg(encoded: bytes) -> None:
  frame = read_frame(encoded)
  assert frame is not None
  expected = simplejpeg.decode_jpeg(encoded)
  found = decode(encoded, Part(0, 0, frame.width, frame.height))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sign", "01")
def test_coefficients_of_up_to_four_times_what_a_picture_has(sign):
  for blocks, step in ((1, 1), (4, 1), (2, 2), (1, 4)):
    assert_equal_to_libjpeg(drifting(blocks, sign, step))
  for size in range(1, 16):
    for step in (1, 16, 255):
      if step << size <= 1 << 12:
        assert_equal_to_libjpeg(with_coefficient(size, sign, step))


@pytest.mark.parametrize("sign", "01")
@pytest.mark.parametrize(("blocks", "step"), [(5, 1), (1, 8), (4, 255)])
def test_means_beyond_what_a_picture_has(blocks, step, sign):
  assert_equal_to_libjpeg(drifting(blocks, sign, step))


@pytest.mark.parametrize("sign", "01")
@pytest.mark.parametrize(("size", "step"), [(14, 1), (10, 16), (6, 255), (13, 255)])
def test_coefficients_beyond_what_a_picture_has(size, step, sign):
  assert_equal_to_libjpeg(with_coefficient(size, sign, step))


def test_noise_for_data():
  """Never an error but that of damage, whatever the codes say."""
  generator = np.random.default_rng(0)
  for kind in (COLOR, GREY):
    segments, _ = take_apart(kind)
    for _ in range(100):
      data = generator.bytes(4000).replace(b"\xff", b"\xff\0")
      encoded = put_together(segments, data + b"\xff\xd9")
      with contextlib.suppress(UndecodableError):
        assert decode(encoded).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\xff\xff\0\1", b"\0\1\xff\xff"])
def test_huge_claims_are_refused(size):
  frame = read_frame(COLOR)
  assert frame is not None
  encoded = COLOR[: frame.height_at] + size + COLOR[frame.height_at + 4 :]
  claimed = read_frame(encoded)
  assert claimed is not None
  assert_undecodable(encoded, Part(0, 0, claimed.width, claimed.height))
  assert_undecodable(encoded, Part(claimed.width - 1, claimed.height - 1, *claimed[1::-1]))


def inserted(encoded: bytes, marker: int, content: bytes) -> bytes:
  """With a segment more before the scan's."""
  segments, rest = take_apart(encoded)
  return put_together([*segments[:-1], (marker, content), segments[-1]], rest)


def test_what_libjpeg_refuses_in_a_header_is_refused():
  segments, _ = take_apart(COLOR)
  tables = next(content for marker, content in segments if marker == jpeg_segments.DHT)
  frame = next(content for marker, content in segments if marker == jpeg_segments.SOF)
  for marker, content in (
    (jpeg_segments.DHT, tables + b"\0\0\0"),
    (jpeg_segments.DHT, bytes([0x20]) + tables[1:]),
    (jpeg_segments.DQT, bytes([7]) + bytes([1]) * 64),
    (jpeg_segments.DQT, bytes([1]) * 30),
    (jpeg_segments.DRI, b"\0"),
    (jpeg_segments.SOF, frame),
    # A mean of 16 bits, which is never used.
    (jpeg_segments.DHT, b"\0" + bytes([0] * 7 + [13] + [0] * 8) + bytes([*range(12), 16])),
  ):
    assert_undecodable(inserted(COLOR, marker, content))


def test_sums_beyond_what_libjpeg_holds_are_left_to_it():
  """Single bright pixels, coarsely quantized by another table than they were coded with."""
  for across in range(8):
    for down in range(8):
      pixels = np.full((16, 16), 128, np.uint8)
      pixels[down::8, across::8] = 255
      file = io.BytesIO()
      PIL.Image.fromarray(pixels).save(file, "JPEG", qtables=[[4] * 64])
      for step in (4, 20, 60, 255):
        encoded = changed(
          file.getvalue(), jpeg_segments.DQT, lambda body, step=step: body[:1] + bytes([step]) * 64
        )
        assert_equal_to_libjpeg(encoded)
