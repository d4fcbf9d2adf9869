"""Tests of resnet_jax.data.jpeg.show_part: the pixels that it decodes."""

from collections.abc import Callable, Iterator

import jpeg_segments
import numpy as np
import PIL.Image
import pytest
import simplejpeg
from jpeg_parts import decode_part
from jpeg_segments import put_together, take_apart
from pictures import encode, noise, scene

from resnet_jax.data import jpeg
from resnet_jax.data.jpeg_header import read_frame, read_scan
from resnet_jax.data.windows import Part

KINDS = {
  "4:4:4": {"subsampling": 0},
  "4:2:2": {"subsampling": 1},
  "4:2:0": {"subsampling": 2},
  "grey": {},
}


def constant(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
  color = tuple(int(level) for level in np.random.default_rng(seed).integers(0, 256, 3))
  return PIL.Image.new("RGB", (width, height), color)


def saturated(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
  """Each pixel one of the eight corners of the cube of colours."""
  bits = np.random.default_rng(seed).integers(0, 2, (height, width, 3), np.uint8)
  return PIL.Image.fromarray(bits * np.uint8(255))


def checkered(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
  """Black and white fields of a few pixels: the largest coefficients that there can be."""
  side = 1 + seed % 4
  rows, columns = np.ogrid[:height, :width]
  white = (rows // side + columns // side) % 2
  return PIL.Image.fromarray((white * 255).astype(np.uint8)).convert("RGB")


PICTURES = (scene, noise, constant, saturated, checkered)


def made(kind: str, image: PIL.Image.Image, quality: int = 90, **options) -> bytes:
  image = image.convert("L") if kind == "grey" else image
  return encode(image, quality=quality, **KINDS[kind], **options)


def random_part(height: int, width: int, generator: np.random.Generator) -> Part:
  left, right = sorted(generator.choice(width + 1, 2, replace=False))
  top, bottom = sorted(generator.choice(height + 1, 2, replace=False))
  return Part(int(left), int(top), int(right), int(bottom))


def parts_of(height: int, width: int, seed: int = 0, count: int = 12) -> Iterator[Part]:
  """The whole, its corners and edges, single pixels, and rectangles drawn at random."""
  generator = np.random.default_rng((seed, height, width))
  yield Part(0, 0, width, height)
  for x in (0, width - 1):
    yield Part(x, 0, x + 1, height)
    for y in (0, height - 1):
      yield Part(x, y, x + 1, y + 1)
  for y in (0, height - 1):
    yield Part(0, y, width, y + 1)
  for _ in range(count):
    x, y = int(generator.integers(width)), int(generator.integers(height))
    yield Part(x, y, x + 1, y + 1)
    yield random_part(height, width, generator)


def assert_equal_to_libjpeg(encoded: bytes, parts) -> None:
  frame = read_frame(encoded)
  assert frame is not None
  whole = simplejpeg.decode_jpeg(encoded)
  for part in parts:
    found = decode_part(encoded, frame, part)
    left, top, right, bottom = part
    np.testing.assert_array_equal(found, whole[top:bottom, left:right], str(part))


@pytest.fixture
def only_alone(monkeypatch):
  """Makes a test fail that would decode whole rows."""
  monkeypatch.setattr(jpeg, "decode_rows", lambda *_: pytest.fail("was not decoded alone"))


@pytest.mark.usefixtures("only_alone")
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_that_of_the_whole_bit_for_bit(kind, picture):
  for i, quality in enumerate((5, 30, 55, 75, 92, 100)):
    for optimize in (False, True):
      height, width = (77 + i, 93 - i) if optimize else (64, 96)
      encoded = made(kind, picture(height, width, i), quality, optimize=optimize)
      assert_equal_to_libjpeg(encoded, parts_of(height, width, i))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_all_small_sizes(kind, monkeypatch):
  monkeypatch.setattr(jpeg, "decode_rows", with_libjpeg := Recorded(jpeg.decode_rows))
  for one in range(1, 41):
    for other in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40)[one % 3 :: 3]:
      for height, width in {(one, other), (other, one)}:
        encoded = made(kind, noise(height, width, one))
        before = with_libjpeg.calls
        assert_equal_to_libjpeg(encoded, parts_of(height, width, one, 1))
        # libjpeg does not interpolate colour that is as narrow, and nor do we.
        alone = width >= 5 or kind in ("4:4:4", "grey")
        assert (with_libjpeg.calls == before) == alone


class Recorded:
  """A function that counts its calls."""

  def __init__(self, function: Callable):
    self._function, self.calls = function, 0

  def __call__(self, *arguments):
    self.calls += 1
    return self._function(*arguments)


@pytest.mark.usefixtures("only_alone")
@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_alone(kind):
  height, width = 37, 35
  pixels = (Part(x, y, x + 1, y + 1) for y in range(height) for x in range(width))
  assert_equal_to_libjpeg(made(kind, noise(height, width)), pixels)


@pytest.mark.usefixtures("only_alone")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(24, 900), (900, 24), (300, 400)])
def test_parts_of_many_blocks(kind, shape):
  for picture in (scene, saturated):
    assert_equal_to_libjpeg(made(kind, picture(*shape), 95), parts_of(*shape))


@pytest.mark.usefixtures("only_alone")
def test_the_other_encoder_of_libjpeg():
  pixels = np.asarray(scene(61, 83))
  for sampling in ("444", "422", "420", "Gray"):
    space, given = ("GRAY", pixels[..., :1].copy()) if sampling == "Gray" else ("RGB", pixels)
    encoded = simplejpeg.encode_jpeg(given, 85, space, sampling)
    assert_equal_to_libjpeg(encoded, parts_of(61, 83))


def test_real_pictures_are_decoded_alone_and_as_libjpeg_does(samples_dir, monkeypatch):
  monkeypatch.setattr(jpeg, "decode_rows", with_libjpeg := Recorded(jpeg.decode_rows))
  generator = np.random.default_rng(0)
  most = 0
  for path in sorted(samples_dir.glob("*.JPEG"))[::10]:
    encoded = path.read_bytes()
    frame, scan = read_frame(encoded), read_scan(encoded)
    assert frame is not None
    parts = [random_part(frame.height, frame.width, generator) for _ in range(2)]
    before = with_libjpeg.calls
    if frame.components in (1, 3):
      assert_equal_to_libjpeg(encoded, parts)
      assert with_libjpeg.calls == before + (len(parts) if scan is None else 0)
      most += scan is not None
  assert most > 0


def with_steps_of_16_bits(encoded: bytes, together: bool = False, factor: int = 1) -> bytes:
  """Each table of quantization of 16 bits, in a segment of its own or all in one."""
  segments, rest = take_apart(encoded)
  tables = [
    bytes([0x10 | number]) + b"".join((step * factor).to_bytes(2) for step in steps)
    for number, steps in jpeg_segments.quantization_tables(segments)
  ]
  tables = [b"".join(tables)] if together else tables
  others = [segment for segment in segments if segment[0] != jpeg_segments.DQT]
  return put_together([(jpeg_segments.DQT, table) for table in tables] + others, rest)


def in_several_scans(encoded: bytes) -> bytes:
  """Claims that the first scan is of brightness alone; what follows is damage."""
  segments, rest = take_apart(encoded)
  segments[-1] = jpeg_segments.SOS, b"\x01" + segments[-1][1][1:3] + b"\x00\x3f\x00"
  return put_together(segments, rest)


def with_adobe(encoded: bytes, transform: int, jfif: bool = False) -> bytes:
  segments, rest = take_apart(encoded)
  adobe = jpeg_segments.ADOBE, b"Adobe" + bytes([0, 100, 0, 0, 0, 0, transform])
  kept = [segment for segment in segments if jfif or segment[0] != jpeg_segments.JFIF]
  return put_together([*kept[:1], adobe, *kept[1:]], rest)


def with_numbers(encoded: bytes, numbers: bytes, jfif: bytes | None = None) -> bytes:
  """With other numbers of the components, and a JFIF header of these bytes or none."""
  segments, rest = take_apart(encoded)
  changed = [] if jfif is None else [(jpeg_segments.JFIF, jfif)]
  for marker, content in segments:
    body = bytearray(content)
    if marker == jpeg_segments.SOF:
      body[6::3] = numbers
    elif marker == jpeg_segments.SOS:
      body[1:7:2] = numbers
    if marker != jpeg_segments.JFIF:
      changed.append((marker, bytes(body)))
  return put_together(changed, rest)


def without_huffman_tables(encoded: bytes) -> bytes:
  """As in the pictures of Motion JPEG: they are coded with the tables of section K.3."""
  segments, rest = take_apart(encoded)
  return put_together([segment for segment in segments if segment[0] != jpeg_segments.DHT], rest)


COLOR = made("4:2:0", scene(61, 83))
PIXELS = np.asarray(scene(61, 83))
RARE = {
  "progressive": encode(scene(61, 83), progressive=True),
  "progressive grey": encode(scene(61, 83).convert("L"), progressive=True),
  "restart markers": encode(scene(61, 83), restart_marker_blocks=3),
  "4:4:0": simplejpeg.encode_jpeg(PIXELS, 85, "RGB", "440"),
  "4:1:1": simplejpeg.encode_jpeg(PIXELS, 85, "RGB", "411"),
  "RGB": encode(scene(61, 83), keep_rgb=True),
  "RGB by its numbers": with_numbers(COLOR, b"RGB"),
  "RGB by Adobe": with_adobe(made("4:4:4", scene(61, 83)), 0),
  "no Huffman tables": without_huffman_tables(COLOR),
  "steps of 16 bits": with_steps_of_16_bits(COLOR),
  "large steps of 16 bits": with_steps_of_16_bits(made("4:2:0", scene(61, 83), 20), factor=5),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_kinds_are_decoded_by_libjpeg(name):
  assert read_scan(RARE[name]) is None
  assert_equal_to_libjpeg(RARE[name], parts_of(61, 83, count=4))


@pytest.mark.parametrize("image", [scene(61, 83).convert("L"), scene(61, 83)])
def test_steps_of_16_bits_in_one_segment(image):
  encoded = with_steps_of_16_bits(encode(image, quality=50), together=True)
  assert_equal_to_libjpeg(encoded, [Part(0, 0, 83, 61)])


def test_what_looks_like_steps_among_steps_of_16_bits_is_none():
  segments, rest = take_apart(encode(scene(61, 83).convert("L")))
  ((number, steps),) = jpeg_segments.quantization_tables(segments)
  unused = b"\x12" + b"".join(step.to_bytes(2) for step in range(1, 65))
  tables = unused + bytes([number]) + steps
  others = [segment for segment in segments if segment[0] != jpeg_segments.DQT]
  encoded = put_together([(jpeg_segments.DQT, tables), *others], rest)
  assert_equal_to_libjpeg(encoded, [Part(0, 0, 83, 61)])


def test_a_scan_of_brightness_alone_is_not_the_whole():
  assert read_scan(in_several_scans(COLOR)) is None


@pytest.mark.usefixtures("only_alone")
@pytest.mark.parametrize("jfif", [False, True])
def test_colors_by_adobe(jfif):
  assert_equal_to_libjpeg(with_adobe(COLOR, 1, jfif), parts_of(61, 83, count=2))


@pytest.mark.usefixtures("only_alone")
def test_jfif_goes_before_adobe_and_the_numbers():
  header = b"JFIF\0\1\1\0\0\1\0\1\0\0"
  for encoded in (with_adobe(COLOR, 0, jfif=True), with_numbers(COLOR, b"RGB", header)):
    assert_equal_to_libjpeg(encoded, parts_of(61, 83, count=2))


def test_a_jfif_header_that_is_too_short_is_none():
  for header in (b"JFIF\0", b"JFIF\0\1\1\0\0\1\0\1\0"):
    encoded = with_numbers(COLOR, b"RGB", header)
    assert_equal_to_libjpeg(encoded, [Part(0, 0, 83, 61)])


@pytest.mark.usefixtures("only_alone")
@pytest.mark.parametrize("sampling", [0x11, 0x22, 0x12, 0x21, 0x41, 0x44])
def test_grey_has_one_block_in_a_unit_whatever_its_sampling(sampling):
  encoded = bytearray(encode(scene(61, 83).convert("L")))
  frame = read_frame(bytes(encoded))
  assert frame is not None
  encoded[frame.height_at + 6] = sampling
  assert_equal_to_libjpeg(bytes(encoded), parts_of(61, 83, count=4))


def changed_headers(encoded: bytes) -> Iterator[tuple[str, bytes]]:
  """A file whose headers say the same in another way."""
  segments, rest = take_apart(encoded)
  tables = list(jpeg_segments.huffman_tables(segments))
  steps = [bytes([n]) + table for n, table in jpeg_segments.quantization_tables(segments)]
  found = (jpeg_segments.DHT, jpeg_segments.DQT)
  others = [segment for segment in segments[:-1] if segment[0] not in found]
  scan = segments[-1:]
  separate = [(jpeg_segments.DHT, table) for table in tables]
  separate_steps = [(jpeg_segments.DQT, table) for table in steps]
  together = [(jpeg_segments.DHT, b"".join(tables))]
  steps_together = [(jpeg_segments.DQT, b"".join(steps))]
  yield "as it was", put_together(segments, rest)
  yield "fill bytes", put_together(segments, rest, fill=3)
  yield "tables in one segment", put_together(steps_together + together + others + scan, rest)
  yield "a segment a table", put_together(others + separate + separate_steps + scan, rest)
  backwards = separate_steps[::-1] + others + separate[::-1]
  yield "backwards", put_together(backwards + scan, rest)
  # Other tables of the same numbers, which are replaced before the scan.
  wrong = [
    (jpeg_segments.DHT, table[:1] + tables[(i + 2) % len(tables)][1:])
    for i, table in enumerate(tables)
  ]
  wrong_steps = [(jpeg_segments.DQT, table[:1] + bytes(range(1, 65))) for table in steps]
  replaced = wrong + wrong_steps + others + separate + separate_steps
  yield "tables that are replaced", put_together(replaced + scan, rest)
  doubled = [(jpeg_segments.DHT, b"".join(content for _, content in wrong) + together[0][1])]
  yield "replaced in a segment", put_together(others + steps_together + doubled + scan, rest)
  unused = [(jpeg_segments.DHT, number + tables[0][1:]) for number in (b"\x03", b"\x13")]
  yield "tables that are not used", put_together(unused + segments, rest)
  empty = [(marker, b"") for marker in (jpeg_segments.DHT, jpeg_segments.DQT, 0xFE)]
  yield "empty segments", put_together(empty + segments, rest)
  yield "no restarts", put_together([(jpeg_segments.DRI, b"\0\0"), *segments], rest)
  yield (
    "extended sequential",
    put_together(
      [(0xC1 if marker == jpeg_segments.SOF else marker, content) for marker, content in segments],
      rest,
    ),
  )
  for name, more in {
    "zeros": b"\0" * 99,
    "page": b"<html>",
    "file": encoded,
    "0xFF": b"\xff",
  }.items():
    yield f"{name} behind the end", encoded + more


@pytest.mark.usefixtures("only_alone")
@pytest.mark.parametrize("kind", KINDS)
def test_headers_that_say_the_same_in_another_way(kind):
  original = made(kind, scene(61, 83), optimize=True)
  whole = simplejpeg.decode_jpeg(original)
  for name, encoded in changed_headers(original):
    frame = read_frame(encoded)
    assert frame is not None, name
    for left, top, right, bottom in parts_of(61, 83, count=2):
      found = decode_part(encoded, frame, Part(left, top, right, bottom))
      np.testing.assert_array_equal(found, whole[top:bottom, left:right], name)


@pytest.mark.usefixtures("only_alone")
def test_tables_of_any_number():
  segments, rest = take_apart(COLOR)
  renumbered = []
  for marker, content in segments:
    body = bytearray(content)
    if marker == jpeg_segments.SOS:
      body[2:7:2] = bytes(3 * (chosen >> 4) << 4 | 2 + (chosen & 1) for chosen in body[2:7:2])
    elif marker == jpeg_segments.SOF:
      body[8::3] = bytes(3 - number for number in body[8::3])
    elif marker == jpeg_segments.DQT:
      body = bytearray(
        b"".join(bytes([3 - n]) + t for n, t in jpeg_segments.quantization_tables([(marker, body)]))
      )
    elif marker == jpeg_segments.DHT:
      body = bytearray(
        b"".join(
          bytes([2 + table[0] if table[0] & 0x10 else 3 * table[0]]) + table[1:]
          for table in jpeg_segments.huffman_tables([(marker, bytes(body))])
        )
      )
    renumbered.append((marker, bytes(body)))
  encoded = put_together(renumbered, rest)
  np.testing.assert_array_equal(simplejpeg.decode_jpeg(encoded), simplejpeg.decode_jpeg(COLOR))
  assert_equal_to_libjpeg(encoded, parts_of(61, 83, count=2))


def test_what_lies_below_the_part_does_not_matter():
  encoded = bytearray(made("4:2:0", noise(200, 200)))
  frame = read_frame(bytes(encoded))
  assert frame is not None
  part = Part(20, 10, 90, 40)
  before = decode_part(bytes(encoded), frame, part)
  middle = len(encoded) // 2
  encoded[middle:-2] = np.random.default_rng(0).bytes(len(encoded) - 2 - middle)
  np.testing.assert_array_equal(decode_part(bytes(encoded), frame, part), before)
