"""Tests of resnet_jax.data.resample and resample_planes."""

import math

import numpy as np
import PIL.Image
import pytest
from pictures import noise, scene

from resnet_jax.data.resample import resize_window, touched_part
from resnet_jax.data.resample_planes import resize_image
from resnet_jax.data.windows import (
  Part,
  Window,
  center_window,
  random_words,
  resized_shape,
  scale_jitter_window,
)

SHORT_SIDES = (256, 480)
SHAPE = (224, 224)
FILTERS = {
  "bilinear": PIL.Image.Resampling.BILINEAR,
  "bicubic": PIL.Image.Resampling.BICUBIC,
}


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.abs(first.astype(int) - second)


def with_pillow(image: np.ndarray, window: Window, shape=SHAPE, interpolation="bilinear"):
  """Rows first, then columns, as Pillow does unless it is new and the picture tall."""
  picture, kind = PIL.Image.fromarray(image), FILTERS[interpolation]
  box = (window.left, 0, window.right, image.shape[0])
  narrow = picture.resize((shape[1], image.shape[0]), kind, box=box)
  box = (0, window.top, shape[1], window.bottom)
  return np.asarray(narrow.resize(shape[::-1], kind, box=box))


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (300, 300), (97, 801), (256, 256)])
def test_a_window_is_that_of_the_whole_image_resized(shape):
  image = noise(*shape)
  height, width = resized_shape(*shape, 256)
  whole = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
  top, left = (height - 224) // 2, (width - 224) // 2
  want = np.asarray(whole)[top : top + 224, left : left + 224]
  got = resize_window(np.asarray(image), center_window(*shape, 256, 224), SHAPE)
  # Windows are kept in float32, so a weight may round the other way; a shift by one pixel of this
  # picture would cost 30 grey levels in the mean.
  assert difference(got, want).max() <= 2
  assert difference(got, want).mean() < 0.05


@pytest.mark.parametrize("make", [noise, scene])
@pytest.mark.parametrize("reduction", [0.01, 0.4, 0.77, 1, 1.01, 1.3, 1.75, 2, 2.6, 4.1])
def test_pixels_are_pillows_bit_for_bit(make, reduction):
  image = np.asarray(make(430, 470))
  for left, top in ((0, 0), (3, 7), (11.3, 5.9), (470 - 100 * reduction, 430 - 90 * reduction)):
    window = Window(left, top, min(left + 100 * reduction, 470), min(top + 90 * reduction, 430))
    got = resize_window(image, window, (90, 100))
    np.testing.assert_array_equal(got, with_pillow(image, window, (90, 100)))
    both = PIL.Image.fromarray(image).resize((100, 90), FILTERS["bilinear"], box=window)
    assert difference(got, np.asarray(both)).max() <= 1
    bicubic = resize_window(image, window, (90, 100), "bicubic")
    assert difference(bicubic, with_pillow(image, window, (90, 100), "bicubic")).max() <= 1


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (3, 500), (500, 3), (225, 225), (1500, 1300)])
def test_training_windows_of_any_image_are_pillows(shape):
  image = np.asarray(noise(*shape))
  for example in range(20):
    window = scale_jitter_window(*shape, random_words(1, 0, example, 3), SHORT_SIDES, 224)
    np.testing.assert_array_equal(resize_window(image, window, SHAPE), with_pillow(image, window))


def test_height_and_width_are_resized_each_by_its_own_factor():
  image = np.asarray(scene(300, 400))
  window = Window(10, 20, 310, 260)
  got = resize_window(image, window, (96, 200))
  assert got.shape == (96, 200, 3)
  np.testing.assert_array_equal(got, with_pillow(image, window, (96, 200)))


def test_what_is_finer_than_the_result_vanishes():
  stripes = np.zeros((500, 600, 3), np.uint8)
  stripes[:, ::2] = 255
  assert difference(resize_window(stripes, Window(40, 30, 488, 478), SHAPE), 127).max() < 3


def test_the_result_depends_on_the_touched_part_alone():
  generator = np.random.default_rng(0)
  image = np.asarray(noise(320, 410))
  for _ in range(200):
    left, top = generator.uniform(0, 390), generator.uniform(0, 300)
    right, bottom = generator.uniform(left + 1, 410), generator.uniform(top + 1, 320)
    window = Window(*map(float, (left, top, right, bottom)))
    shape = tuple(generator.integers(1, 60, 2).tolist())
    part = touched_part(window, shape, (320, 410), "bilinear")
    assert all(isinstance(edge, int) for edge in part)
    pixels = image[part.top : part.bottom, part.left : part.right].copy()
    got = np.empty((*shape, 3), np.uint8)
    resize_image(pixels, part.left, part.top, 320, 410, tuple(window), got)
    np.testing.assert_array_equal(got, with_pillow(image, window, shape))


def test_a_part_is_no_larger_than_it_must_be():
  part = touched_part(Window(50, 60, 50 + 336, 60 + 224), (224, 224), (500, 500), "bilinear")
  assert part == Part(48, 59, 388, 285)
  assert touched_part(Window(0, 0, 9, 9), (90, 90), (9, 9), "bicubic") == Part(0, 0, 9, 9)


def test_a_result_is_written_where_it_belongs():
  batch = np.zeros((3, 50, 60, 3), np.uint8)
  image = np.asarray(scene(100, 100))
  window = Window(5, 5, 90, 90)
  for interpolation in FILTERS:
    resize_window(image, window, (50, 60), interpolation, batch[1])
    want = with_pillow(image, window, (50, 60), interpolation)
    assert difference(batch[1], want).max() <= 1
  assert not batch[0].any() and not batch[2].any()


def test_real_pictures_are_pillows(samples_dir):
  for number, path in enumerate(sorted(samples_dir.glob("*.JPEG"))[::4]):
    image = np.asarray(PIL.Image.open(path).convert("RGB"))
    window = scale_jitter_window(*image.shape[:2], random_words(5, 0, number, 3), SHORT_SIDES, 224)
    rows, columns = image.shape[:2]
    scale = 224 / (window.right - window.left), 224 / (window.bottom - window.top)
    assert 255 < min(scale[0] * columns, scale[1] * rows) < 481
    assert math.isclose(scale[0], scale[1], rel_tol=0.01)
    np.testing.assert_array_equal(resize_window(image, window, SHAPE), with_pillow(image, window))
