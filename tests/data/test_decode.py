"""Tests of resnet_jax.data.decode and pillow."""

import functools
import warnings

import numpy as np
import PIL.Image
import pytest
from pictures import encode, noise, scene

from resnet_jax.data import decode
from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.resample import resize_window
from resnet_jax.data.windows import (
  Part,
  Window,
  center_window,
  five_windows,
  random_words,
  scale_jitter_window,
)

SHAPE = (224, 224)


def jitter(example: int):
  words = random_words(0, 0, example, 3)
  return functools.partial(scale_jitter_window, words=words, short_sides=(256, 480), size=224)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("quick", [False, True])
def test_a_window_is_that_of_the_whole_image(kind, quick):
  encoded = encode(scene(375, 500), kind)
  whole = decode.decode_image(encoded)
  for example in range(20):
    window = jitter(example)
    got = decode.decode_window(encoded, window, SHAPE, quick=quick)
    want = resize_window(whole, window(375, 500), SHAPE)
    assert np.abs(got.astype(int) - want).mean() < (1 if quick else 0.02)
    # Decoded as far as the window reaches, or wholly, and before: the same to the bit.
    again = decode.decode_window(whole, window, SHAPE, quick=quick)
    np.testing.assert_array_equal(got, again)


@pytest.mark.parametrize("side", [600, 1200, 3000])
def test_large_pictures_are_reduced_in_decoding(side):
  image = scene(side, side + 50)
  encoded = encode(image, quality=95)
  for example in range(3):
    window = jitter(example)
    got = decode.decode_window(encoded, window, SHAPE, quick=True)
    want = resize_window(np.asarray(image), window(side, side + 50), SHAPE)
    assert np.abs(got.astype(int) - want).mean() < 2


def test_several_windows_are_each_by_itself():
  encoded = encode(scene(375, 500))
  windows = functools.partial(five_windows, short_side=256, size=224)
  got = decode.decode_windows(encoded, windows, SHAPE)
  assert got.shape == (5, 224, 224, 3)
  for k in range(5):
    alone = decode.decode_window(
      encoded, lambda height, width, k=k: windows(height, width)[k], SHAPE
    )
    np.testing.assert_array_equal(got[k], alone)


def test_a_png_named_jpeg_is_known_by_its_bytes():
  image = scene(40, 50)
  np.testing.assert_array_equal(decode.decode_image(encode(image, "PNG")), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1", "I;16"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP"])
def test_every_colour_mode_and_format_becomes_rgb(mode, kind):
  image = scene(64, 80).convert("L" if mode == "I;16" else "RGB").convert(mode)
  try:
    encoded = encode(image, kind)
  except (OSError, KeyError, ValueError):
    pytest.skip(f"Pillow writes no {kind} of mode {mode}")
  got = decode.decode_window(encoded, lambda height, width: Window(0, 0, width, height), (64, 80))
  assert got.shape == (64, 80, 3) and got.dtype == np.uint8


def test_grey_images_become_three_equal_channels():
  grey = noise(40, 50).convert("L")
  got = decode.decode_image(encode(grey, "PNG"))
  np.testing.assert_array_equal(got, np.repeat(np.asarray(grey)[..., None], 3, axis=2))


def test_cmyk_jpeg_becomes_rgb():
  image = PIL.Image.new("RGB", (64, 64), (200, 40, 90))
  got = decode.decode_image(encode(image.convert("CMYK"), quality=95))
  assert np.abs(got.astype(int) - (200, 40, 90)).max() <= 4


def test_palette_and_alpha_images_become_rgb():
  image = PIL.Image.new("RGB", (64, 64), (200, 40, 90))
  for other in (image.convert("P", palette=PIL.Image.Palette.ADAPTIVE), image.convert("RGBA")):
    got = decode.decode_image(encode(other, "PNG"))
    np.testing.assert_array_equal(got, np.asarray(image))


def test_sixteen_bit_images_keep_their_high_bits():
  values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
  got = decode.decode_image(encode(PIL.Image.fromarray(values), "PNG"))
  np.testing.assert_array_equal(got[..., 0], values >> 8)


def test_exif_rotation_is_ignored():
  image = noise(40, 60)
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # "Rotate by 90 degrees to display."
  got = decode.decode_image(encode(image, exif=exif))
  np.testing.assert_array_equal(got, decode.decode_image(encode(image)))


def test_tiny_and_huge_images_decode_without_a_warning():
  view = functools.partial(center_window, short_side=256, size=224)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert decode.decode_window(encode(noise(8, 8)), view, (224, 224)).shape == (224, 224, 3)
    huge = PIL.Image.new("L", (10_000, 8_000), 77)
    crop = decode.decode_window(encode(huge), view, (224, 224))
  np.testing.assert_array_equal(crop, 77)


@pytest.mark.parametrize(
  "encoded", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_raises_undecodable(encoded):
  with pytest.raises(UndecodableError):
    decode.decode_image(encoded)


def test_truncated_images_raise_undecodable():
  for kind in ("JPEG", "PNG"):
    whole = encode(noise(100, 120), kind)
    for part in (0.1, 0.5, 0.9):
      with pytest.raises(UndecodableError):
        decode.decode_image(whole[: int(part * len(whole))])


@pytest.mark.filterwarnings("ignore")
def test_fuzzed_bytes_decode_or_raise_undecodable_and_nothing_else():
  generator = np.random.default_rng(0)
  refused = 0
  for trial in range(300):
    encoded = bytearray(encode(noise(40, 50), ("JPEG", "PNG", "GIF")[trial % 3]))
    for place in generator.integers(0, len(encoded), 20):
      encoded[place] = generator.integers(256)
    try:
      image = decode.decode_image(bytes(encoded))
    except UndecodableError:
      refused += 1
    else:
      assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
  assert refused > 100


@pytest.mark.parametrize("quick", [False, True])
def test_large_windows_are_decoded_by_rows_and_resized_by_pillow(monkeypatch, quick):
  image = scene(1025, 1024)
  encoded = encode(image, quality=95)
  small, large = Window(0, 0, 1000, 1000), Window(0, 0, 1024, 1025)
  assert Part(0, 0, 1024, 1024).is_small() and not Part(0, 0, 1024, 1025).is_small()
  got = decode.decode_window(encoded, lambda *_: large, SHAPE, quick=quick)
  want = np.asarray(image.resize(SHAPE[::-1], PIL.Image.Resampling.BILINEAR, box=large))
  assert np.abs(got.astype(int) - want).mean() < 3
  monkeypatch.setattr(decode, "show_part", None)
  decode.decode_window(encoded, lambda *_: large, SHAPE, quick=quick)
  with pytest.raises(TypeError):
    decode.decode_window(encoded, lambda *_: small, SHAPE, quick=quick)
