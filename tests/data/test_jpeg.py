"""Tests of resnet_jax.data.jpeg."""

import io
import tracemalloc

import numpy as np
import PIL.Image
import pytest
from pictures import encode, noise, scene

from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.jpeg import decode_rows
from resnet_jax.data.jpeg_header import Frame, read_frame
from resnet_jax.data.pillow import decode_with_pillow

KINDS = {
  "4:4:4": {"subsampling": 0},
  "4:2:2": {"subsampling": 1},
  "4:2:0": {"subsampling": 2},
  "grey": {},
  "progressive": {"progressive": True},
  "optimized": {"optimize": True},
  "restart markers": {"restart_marker_blocks": 3},
}


def made(kind: str, height: int = 77, width: int = 93) -> bytes:
  image = scene(height, width)
  if kind == "grey":
    image = image.convert("L")
  return encode(image, quality=90, **KINDS[kind])


def with_pillow(encoded: bytes) -> np.ndarray:
  return np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert("RGB"))


def decode(encoded: bytes, rows: int | None = None, reduction: int = 1) -> np.ndarray:
  frame = read_frame(encoded)
  assert frame is not None
  return decode_rows(encoded, frame, frame.height if rows is None else rows, reduction)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_says_what_the_file_is(kind):
  frame = read_frame(made(kind))
  assert frame is not None
  assert frame[:4] == (77, 93, 1 if kind == "grey" else 3, kind != "progressive")


@pytest.mark.parametrize(
  "encoded",
  [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\x00", b"\x89PNG", b"\xff" * 40]
  + [b"\xff\xd8" + marker * 20 for marker in (b"\xff", b"\xff\x00", b"\xff\xe0\x00\x00")],
)
def test_what_has_no_frame_has_none(encoded):
  assert read_frame(encoded) is None


def test_a_comment_that_looks_like_a_frame_is_no_frame():
  encoded = made("4:2:0")
  comment = b"\xff\xc0\x00\x11\x08\x00\x01\x00\x01\x03" * 3
  segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment
  frame = read_frame(encoded[:2] + segment + encoded[2:])
  assert frame is not None and (frame.height, frame.width) == (77, 93)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_rows_are_those_of_the_whole_image_bit_for_bit(kind):
  encoded = made(kind)
  whole = with_pillow(encoded)
  for rows in range(1, 78):
    found = decode(encoded, rows)
    assert len(found) >= rows
    np.testing.assert_array_equal(found[:rows], whole[:rows])
  np.testing.assert_array_equal(decode(encoded), whole)


def test_rows_below_those_that_are_needed_are_not_decoded():
  encoded = made("4:2:0", height=400)
  assert len(decode(encoded, rows=30)) == 32  # Chroma is interpolated from the rows below.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_image_is_the_image_reduced(kind, reduction):
  encoded = encode(scene(160, 240).convert("L" if kind == "grey" else "RGB"), **KINDS[kind])
  found = decode(encoded, reduction=reduction)
  assert found.shape == (160 // reduction, 240 // reduction, 3)
  np.testing.assert_array_equal(
    found, decode_with_pillow(encoded, (160 // reduction, 240 // reduction))
  )
  blocks = with_pillow(encoded).reshape(160 // reduction, reduction, 240 // reduction, reduction, 3)
  # libjpeg reduces chroma of 4:2:2 worse.
  assert np.abs(found - blocks.mean((1, 3))).mean() < (5 if kind == "4:2:2" else 3)
  part = decode(encoded, rows=40, reduction=reduction)
  np.testing.assert_array_equal(part[: 40 // reduction], found[: 40 // reduction])


def test_odd_sizes_are_reduced_rounding_up():
  assert decode(made("4:2:0"), reduction=2).shape == (39, 47, 3)
  assert decode(made("4:2:0"), reduction=8).shape == (10, 12, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_anywhere_is_refused_whatever_rows_are_needed(kind):
  encoded = made(kind)
  start = encoded.index(b"\xff\xda") + 14
  for end in np.linspace(start, len(encoded) - 1, 20).astype(int):
    for rows in (1, 40, 77):
      with pytest.raises(UndecodableError):
        decode(encoded[:end], rows)


def test_the_thumbnails_end_is_not_the_files():
  thumbnail = made("4:2:0", 16, 16)
  segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
  encoded = made("4:2:0")
  with_thumbnail = encoded[:2] + segment + encoded[2:]
  np.testing.assert_array_equal(decode(with_thumbnail), decode(encoded))
  with pytest.raises(UndecodableError, match="cut short"):
    decode(with_thumbnail[:-200], rows=1)


def test_damage_within_the_needed_rows_is_found():
  encoded = bytearray(made("4:2:0", 400, 400))
  start = encoded.index(b"\xff\xda") + 14
  middle = (start + len(encoded)) // 2
  encoded[middle : middle + 2] = b"\xff\xd9"  # The data seems to end.
  with pytest.raises(UndecodableError, match=r"(?i)premature end"):
    decode(bytes(encoded))
  assert decode(bytes(encoded), rows=40).shape[1] == 400


@pytest.mark.parametrize("rows", [20, 77])
def test_what_follows_the_end_does_no_harm(rows):
  encoded = made("4:2:0")
  for more in (b"\0" * 100, b"<html>", encoded):
    np.testing.assert_array_equal(decode(encoded + more, rows), decode(encoded, rows))


def test_odd_headers_do_no_harm():
  encoded = made("4:2:0")
  at = encoded.index(b"JFIF\0") + 5
  unknown_revision = encoded[:at] + b"\x09" + encoded[at + 1 :]
  np.testing.assert_array_equal(decode(unknown_revision), decode(encoded))
  between = encoded[:20] + b"\x01\x02\x03" + encoded[20:]
  if read_frame(between) is not None:
    np.testing.assert_array_equal(decode(between), decode(encoded))


def test_a_header_that_claims_more_than_the_file_can_hold_costs_no_memory():
  encoded = made("4:2:0")
  frame = read_frame(encoded)
  assert isinstance(frame, Frame)
  claims = bytearray(encoded)
  claims[frame.height_at : frame.height_at + 4] = b"\xff\xff\xff\xff"
  tracemalloc.start()
  with pytest.raises(UndecodableError, match="cannot be 65535x65535 pixels"):
    decode(bytes(claims))
  assert tracemalloc.get_traced_memory()[1] < 10e6
  tracemalloc.stop()


def test_real_pictures_decode_as_pillow_decodes_them(samples_dir):
  paths = sorted(samples_dir.glob("*.JPEG"))[::10]
  for path in paths:
    encoded = path.read_bytes()
    np.testing.assert_array_equal(decode(encoded), with_pillow(encoded))


def test_noise_decodes_as_pillow_decodes_it():
  for seed in range(10):
    encoded = encode(noise(50 + seed, 70 - seed, seed), quality=30 + 7 * seed)
    np.testing.assert_array_equal(decode(encoded), with_pillow(encoded))
