"""Tests of resnet_jax.data.windows."""

import math

import numpy as np
import pytest

from resnet_jax.data import windows

SHORT_SIDES = (256, 480)
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
SHAPES = [(8, 8), (1, 1), (2, 3000), (3000, 2), (8000, 10000), (333, 499), (375, 500), (256, 256)]

GOLDEN_WORDS = (
  (262230874213824410, 11261923124065994260, 13484678798481346310),
  (7742524266423235669, 1676795816390965180, 8469205412006452397),
)
ALL_ONES = 2**64 - 1


def words_of(example: int, seed: int = 0, epoch: int = 0, count: int = 3) -> tuple[int, ...]:
  return windows.random_words(seed, epoch, example, count)


def assert_uniform(drawn, values):
  """That the integers 0 … values-1 are drawn alike, by a chi-square far in the tail."""
  counts = np.bincount(drawn, minlength=values)
  assert len(counts) == values and counts.min() > 0
  expected = len(drawn) / values
  chi_square = ((counts - expected) ** 2).sum() / expected
  # Mean values - 1, deviation sqrt(2 * (values - 1)); the words are fixed, so no luck is needed.
  assert abs(chi_square - (values - 1)) < 4 * math.sqrt(2 * (values - 1))


@pytest.mark.parametrize(
  ("shape", "want"), [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((8, 8), (256, 256))]
)
def test_resizing_makes_the_short_side_exact_and_rounds_the_long_one(shape, want):
  assert windows.resized_shape(*shape, 256) == want


def test_resizing_rounds_halves_up():
  assert windows.resized_shape(200, 401, 100) == (100, 201)  # 200.5


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_lie_inside_images_of_any_size(shape):
  height, width = shape
  for example in range(300):
    words = words_of(example, count=windows.WORDS)
    for window in (
      windows.scale_jitter_window(height, width, words, SHORT_SIDES, 224),
      windows.inception_window(height, width, words, AREA, ASPECT),
      *windows.five_windows(height, width, 256, 224),
    ):
      assert 0 <= window.left < window.right <= width
      assert 0 <= window.top < window.bottom <= height


@pytest.mark.parametrize("shape", SHAPES)
def test_the_size_of_a_scale_jitter_crop_is_that_of_the_resized_images(shape):
  height, width = shape
  for example in range(100):
    words = words_of(example)
    rows, columns = windows.resized_shape(
      height, width, windows.uniform_integer(words[0], *SHORT_SIDES)
    )
    window = windows.scale_jitter_window(height, width, words, SHORT_SIDES, 224)
    assert (window.right - window.left) * columns / width == pytest.approx(224)
    assert (window.bottom - window.top) * rows / height == pytest.approx(224)
    assert window.left == int(window.left) and window.top == int(window.top)


def test_short_sides_are_uniform_over_both_ends():
  assert_uniform([windows.uniform_integer(words_of(i)[0], 0, 224) for i in range(20_000)], 225)
  assert windows.uniform_integer(0, *SHORT_SIDES) == 256
  assert windows.uniform_integer(ALL_ONES, *SHORT_SIDES) == 480


def test_corners_are_uniform_over_the_stored_pixels_from_which_the_crop_fits():
  sides = (256, 256)
  # 375 x 500 is resized by 256 / 375, to 256 x 341: the crop is 328.1 x 328.4 stored pixels.
  drawn = [windows.scale_jitter_window(375, 500, words_of(i), sides, 224) for i in range(20_000)]
  assert_uniform([int(window.top) for window in drawn], 47)
  assert_uniform([int(window.left) for window in drawn], 172)
  last = windows.scale_jitter_window(375, 500, (0, ALL_ONES, ALL_ONES), sides, 224)
  assert last.top == 46 and last.bottom <= 375 < last.bottom + 1
  assert last.left == 171 and last.right <= 500 < last.right + 1


def test_areas_and_aspects_of_inception_crops_are_drawn_as_described():
  drawn = [
    windows.inception_window(400, 500, words_of(i, count=windows.WORDS), AREA, ASPECT)
    for i in range(5_000)
  ]
  rows = np.array([window.bottom - window.top for window in drawn])
  columns = np.array([window.right - window.left for window in drawn])
  area, aspect = rows * columns / (400 * 500), columns / rows
  assert 0.075 < area.min() < 0.1 and 0.95 < area.max() <= 1
  assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
  # Crops that do not fit are drawn again, which are the large ones; small ones all fit.
  small = area[area < 0.5]
  assert np.histogram(small, np.linspace(0.08, 0.5, 5))[0] == pytest.approx(len(small) / 4, rel=0.1)
  assert np.log(aspect[area < 0.5]).mean() == pytest.approx(0, abs=0.02)
  assert len(set(drawn)) == len(drawn)


def test_where_no_inception_crop_fits_the_largest_allowed_in_the_centre_is_taken():
  words = words_of(0, count=windows.WORDS)
  assert windows.inception_window(100, 1000, words, (1, 1), ASPECT) == (433, 0, 566, 100)
  assert windows.inception_window(1000, 100, words, (1, 1), ASPECT) == (0, 433, 100, 566)


def test_the_five_windows_are_the_corners_and_the_centre_of_the_resized_image():
  found = windows.five_windows(512, 1024, 256, 224)  # 256 x 512: two stored pixels for each.
  assert found == (
    (0, 0, 448, 448),
    (576, 0, 1024, 448),
    (0, 64, 448, 512),
    (576, 64, 1024, 512),
    (288, 32, 736, 480),
  )
  assert found[-1] == windows.center_window(512, 1024, 256, 224)


def test_random_words_never_change():
  # Written down once: a run that resumes under other versions must see the same crops.
  assert windows.random_words(0, 0, 0, 3) == GOLDEN_WORDS[0]
  assert windows.random_words(42, 89, 1281166, 3) == GOLDEN_WORDS[1]
  assert windows.random_words(-1, 0, 0, 3) == windows.random_words(2**64 - 1, 0, 0, 3)
  assert windows.random_words(0, 0, 0, 22)[:3] == GOLDEN_WORDS[0]


def test_random_words_differ_between_seeds_epochs_and_examples():
  several = [
    windows.random_words(seed, epoch, example, 3)
    for seed in range(4)
    for epoch in range(4)
    for example in range(4)
  ]
  assert len({word for words in several for word in words}) == 3 * 64
