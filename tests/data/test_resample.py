"""Tests of resnet_jax.data.resample."""

import numpy as np
import PIL.Image
import pytest
from pictures import noise, scene

from resnet_jax.data.resample import resize_exactly, resize_quickly
from resnet_jax.data.windows import (
  Window,
  center_window,
  random_words,
  resized_shape,
  scale_jitter_window,
  uniform_integer,
)

SHORT_SIDES = (256, 480)


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.abs(first.astype(int) - second)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (300, 300), (97, 801), (256, 256)])
def test_exactly_is_resizing_the_whole_image_and_cropping(shape):
  image = noise(*shape)
  height, width = resized_shape(*shape, 256)
  whole = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
  top, left = (height - 224) // 2, (width - 224) // 2
  want = np.asarray(whole)[top : top + 224, left : left + 224]
  got = resize_exactly(np.asarray(image), center_window(*shape, 256, 224), (224, 224))
  # Pillow keeps the window in float32, so a weight may round the other way; a shift by one pixel of
  # this picture would cost 30 grey levels in the mean.
  assert difference(got, want).max() <= 2
  assert difference(got, want).mean() < 0.05


@pytest.mark.parametrize("make", [noise, scene])
@pytest.mark.parametrize("side", [256, 300, 375, 480])
def test_quickly_is_exactly_but_for_rounding_where_nothing_is_reduced(make, side):
  image = np.asarray(make(250, 330))
  for example in range(10):
    words = random_words(0, 0, example, 3)
    window = scale_jitter_window(250, 330, words, (side, side), 224)
    got, want = (resize(image, window, (224, 224)) for resize in (resize_quickly, resize_exactly))
    assert got.shape == (224, 224, 3) and got.dtype == np.uint8
    # The pixels around the window weigh in at its edge in the exact way alone.
    assert difference(got, want)[1:-1, 1:-1].max() <= 4
    assert difference(got, want).mean() < 0.4


@pytest.mark.parametrize("reduction", [1.01, 1.2, 1.5, 1.8, 2.0])
def test_quickly_is_antialiased_as_exactly_is(reduction):
  image = np.asarray(scene(500, 600))
  window = Window(40, 30, 40 + 224 * reduction, 30 + 224 * reduction)
  quick, exact = (resize(image, window, (224, 224)) for resize in (resize_quickly, resize_exactly))
  assert difference(quick, exact).mean() < 1
  # What is finer than the pixels of the result vanishes alike; without a filter it would not.
  stripes = np.zeros((500, 600, 3), np.uint8)
  stripes[:, ::2] = 255
  quick, exact = (
    resize(stripes, window, (224, 224)) for resize in (resize_quickly, resize_exactly)
  )
  assert quick.std() < 1.15 * exact.std() + 4


def test_a_filter_sees_the_pixels_around_the_window():
  image = np.zeros((400, 400, 3), np.uint8)
  image[:, :100] = 255
  window = Window(100, 100, 100 + 224 * 1.3, 100 + 224 * 1.3)
  quick, exact = (resize(image, window, (224, 224)) for resize in (resize_quickly, resize_exactly))
  assert exact[100, 0, 0] > 10
  assert abs(int(quick[100, 0, 0]) - int(exact[100, 0, 0])) < 8


@pytest.mark.parametrize("side", [70, 900])
def test_strong_reductions_and_enlargements_are_computed_exactly(side):
  image = np.asarray(noise(side, side))
  window = Window(0, 0, side, side)
  np.testing.assert_array_equal(
    resize_quickly(image, window, (224, 224)), resize_exactly(image, window, (224, 224))
  )


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (3, 500), (500, 3), (225, 225), (224, 224)])
def test_images_of_any_shape_give_what_is_asked_for(shape):
  image = np.asarray(noise(*shape))
  for example in range(50):
    words = random_words(1, 0, example, 3)
    window = scale_jitter_window(*shape, words, SHORT_SIDES, 224)
    got, want = (resize(image, window, (224, 224)) for resize in (resize_quickly, resize_exactly))
    assert got.shape == want.shape
    assert difference(got, want).mean() < 2, (shape, example)


def test_the_shape_of_the_result_is_height_and_width():
  image = np.asarray(scene(300, 400))
  window = Window(10, 20, 310, 260)
  got, want = (resize(image, window, (96, 200)) for resize in (resize_quickly, resize_exactly))
  assert got.shape == want.shape == (96, 200, 3)
  assert difference(got, want).mean() < 2


def test_real_pictures_are_within_two_grey_levels(samples_dir):
  errors = []
  for number, path in enumerate(sorted(samples_dir.glob("*.JPEG"))):
    image = np.asarray(PIL.Image.open(path).convert("RGB"))
    words = random_words(5, 0, number, 3)
    side = uniform_integer(words[0], *SHORT_SIDES)
    rows, columns = resized_shape(*image.shape[:2], side)
    window = scale_jitter_window(*image.shape[:2], words, SHORT_SIDES, 224)
    # Independent of ours: Pillow resizes so much of the image as is shown, whole.
    want = PIL.Image.fromarray(image).resize((224, 224), PIL.Image.Resampling.BILINEAR, box=window)
    assert (window.right - window.left) * columns == pytest.approx(224 * image.shape[1])
    assert (window.bottom - window.top) * rows == pytest.approx(224 * image.shape[0])
    errors.append(difference(resize_quickly(image, window, (224, 224)), np.asarray(want)).mean())
  assert np.mean(np.array(errors) < 2) >= 0.95
  assert np.median(errors) < 0.5
