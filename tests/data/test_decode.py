"""Tests of resnet_jax.data.decode."""

import functools
import io
import warnings

import numpy as np
import PIL.Image
import pytest

from resnet_jax.data import decode
from resnet_jax.data.order import epoch_order

SHORT_SIDES = (256, 480)

GOLDEN_WORDS = (
  (8274925104122819374, 14823553129192453039, 8862736341730819066),
  (18202408158716313542, 17077132385568448861, 7561951713911507048),
)


def encode(image: PIL.Image.Image, kind: str = "JPEG", **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def picture(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
  """Noise over a gradient: nothing in it survives a shift by a pixel."""
  noise = np.random.default_rng(seed).integers(0, 128, (height, width, 3))
  gradient = np.linspace(0, 127, width)[None, :, None]
  return PIL.Image.fromarray((noise + gradient).astype(np.uint8))


def words_of(example: int, seed: int = 0, epoch: int = 0) -> tuple[int, ...]:
  return decode.random_words(seed, epoch, example, 3)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (300, 300), (97, 801), (256, 256)])
@pytest.mark.parametrize("example", range(3))
def test_crop_equals_resizing_the_whole_image_and_cropping(shape, example):
  image = picture(*shape)
  words = words_of(example)
  view = functools.partial(decode.training_window, words=words, short_sides=SHORT_SIDES, size=224)
  got = decode.decode_crop(encode(image, "PNG"), view, 224)

  side = decode.uniform_integer(words[0], *SHORT_SIDES)
  height, width = decode.resized_shape(*shape, side)
  whole = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
  top = decode.uniform_integer(words[1], 0, height - 224)
  left = decode.uniform_integer(words[2], 0, width - 224)
  want = np.asarray(whole)[top : top + 224, left : left + 224]
  difference = np.abs(got.astype(int) - want)
  # Pillow keeps the window in float32, so a weight may round the other way; a shift by one pixel of
  # this picture would cost 30 grey levels in the mean.
  assert difference.max() <= 2
  assert difference.mean() < 0.05


def test_center_window_shows_the_centre_of_the_short_side_256_image():
  image = picture(375, 500)
  view = functools.partial(decode.center_window, short_side=256, size=224)
  got = decode.decode_crop(encode(image, "PNG"), view, 224)
  whole = np.asarray(image.resize((341, 256), PIL.Image.Resampling.BILINEAR))
  assert np.abs(got.astype(int) - whole[16:240, 58:282]).max() <= 1


@pytest.mark.parametrize(
  ("shape", "want"), [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((8, 8), (256, 256))]
)
def test_resizing_makes_the_short_side_exact_and_rounds_the_long_one(shape, want):
  assert decode.resized_shape(*shape, 256) == want


def test_resizing_rounds_halves_up():
  assert decode.resized_shape(200, 401, 100) == (100, 201)  # 200.5


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (2, 3000), (3000, 2), (8000, 10000), (333, 499)])
def test_windows_lie_inside_images_of_any_size(shape):
  height, width = shape
  for example in range(300):
    window = decode.training_window(height, width, words_of(example), SHORT_SIDES, 224)
    assert 0 <= window.left < window.right <= width
    assert 0 <= window.top < window.bottom <= height


def test_short_sides_and_offsets_are_uniform_and_reach_both_ends():
  examples = 20_000
  words = np.array([words_of(example) for example in range(examples)], dtype=object)
  for column, values in ((0, 225), (1, 33), (2, 118)):
    drawn = [decode.uniform_integer(word, 0, values - 1) for word in words[:, column]]
    counts = np.bincount(drawn, minlength=values)
    assert len(counts) == values and counts.min() > 0
    chi_square = ((counts - examples / values) ** 2).sum() / (examples / values)
    # Mean values - 1, deviation sqrt(2 * (values - 1)); the words are fixed, so no luck is needed.
    assert abs(chi_square - (values - 1)) < 4 * np.sqrt(2 * (values - 1))
  assert decode.uniform_integer(0, *SHORT_SIDES) == 256
  assert decode.uniform_integer(2**64 - 1, *SHORT_SIDES) == 480


def test_random_words_never_change():
  # Written down once: a run that resumes under another NumPy must see the same crops.
  assert decode.random_words(0, 0, 0, 3) == GOLDEN_WORDS[0]
  assert decode.random_words(42, 89, 1281166, 3) == GOLDEN_WORDS[1]
  assert decode.random_words(-1, 0, 0, 3) == decode.random_words(2**64 - 1, 0, 0, 3)


def test_random_words_differ_between_seeds_epochs_and_examples():
  several = [
    decode.random_words(seed, epoch, example, 3)
    for seed in range(4)
    for epoch in range(4)
    for example in range(4)
  ]
  assert len({word for words in several for word in words}) == 3 * 64


def test_crops_do_not_share_random_words_with_the_order_of_examples():
  words = {word for example in range(100) for word in words_of(example)}
  order = np.random.Philox(key=[0, 0]).random_raw(1000)
  np.testing.assert_array_equal(np.argsort(order, kind="stable"), epoch_order(0, 0, 1000))
  assert words.isdisjoint(order.tolist())


def test_grey_images_become_three_equal_channels():
  grey = picture(40, 50).convert("L")
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
  image = picture(40, 60)
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # "Rotate by 90 degrees to display."
  got = decode.decode_image(encode(image, exif=exif))
  np.testing.assert_array_equal(got, decode.decode_image(encode(image)))


def test_tiny_and_huge_images_decode_without_a_warning():
  view = functools.partial(decode.center_window, short_side=256, size=224)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert decode.decode_crop(encode(picture(8, 8)), view, 224).shape == (224, 224, 3)
    huge = PIL.Image.new("L", (10_000, 8_000), 77)
    crop = decode.decode_crop(encode(huge), view, 224)
  np.testing.assert_array_equal(crop, 77)


@pytest.mark.parametrize(
  "encoded", [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_raises_undecodable(encoded):
  with pytest.raises(decode.UndecodableError):
    decode.decode_image(encoded)


def test_truncated_images_raise_undecodable():
  for kind in ("JPEG", "PNG"):
    whole = encode(picture(100, 120), kind)
    for part in (0.1, 0.5, 0.9):
      with pytest.raises(decode.UndecodableError):
        decode.decode_image(whole[: int(part * len(whole))])


@pytest.mark.filterwarnings("ignore")
def test_fuzzed_bytes_decode_or_raise_undecodable_and_nothing_else():
  generator = np.random.default_rng(0)
  refused = 0
  for trial in range(300):
    encoded = bytearray(encode(picture(40, 50), ("JPEG", "PNG", "GIF")[trial % 3]))
    for place in generator.integers(0, len(encoded), 20):
      encoded[place] = generator.integers(256)
    try:
      image = decode.decode_image(bytes(encoded))
    except decode.UndecodableError:
      refused += 1
    else:
      assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
  assert refused > 100
