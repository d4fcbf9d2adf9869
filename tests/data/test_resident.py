"""The resident engine's views: less the mean, padded by zeros, functions of the example alone."""

import functools

import chex
import jax
import numpy as np
import pytest
import scipy.stats

from resnet_jax.data import DataConfig, ResidentConfig, positions, resident_dataset
from resnet_jax.data.resident import plain_view, training_view

SHAPE = (5, 6, 3)


def arrays():
  generator = np.random.default_rng(0)

  def split(size, low, high):
    return (
      generator.integers(low, high, (size, *SHAPE), np.uint8),
      generator.integers(0, 4, size),
    )

  # The test images are darker, so that a mean over them too would be another.
  return {"train": split(20, 100, 256), "test": split(8, 0, 100)}


def open_resident(padding=2, flip=True, mean="pixel"):
  config = DataConfig(mean=mean, resident=ResidentConfig(padding, flip))
  return resident_dataset("noise", arrays(), ["a", "b", "c", "d"], config)


def view(split, epochs, examples, seed=0):
  batch = split.fetch(np.asarray(epochs, np.int32), np.asarray(examples, np.int32))
  images, labels = jax.jit(split.view)(split.constants, batch, jax.random.key(seed))
  assert images.dtype == np.float32
  assert labels.dtype == np.int32
  return np.asarray(images), np.asarray(labels)


def less_mean(name):
  """Images of a split less the training split's mean image, in float64."""
  mean = arrays()["train"][0].astype(np.float64).mean(0)
  return arrays()[name][0] - mean


def test_the_dataset_says_what_it_holds():
  dataset = open_resident()
  assert dataset.name == "noise"
  assert dataset.class_names == ("a", "b", "c", "d")
  assert dataset.num_classes == 4
  assert dataset.image_shape == SHAPE
  assert {name: split.size for name, split in dataset.splits.items()} == {"train": 20, "test": 8}


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_view_without_augmentation_is_the_image_less_the_training_mean(name):
  split = open_resident(padding=0, flip=False).splits[name]
  order = np.random.default_rng(1).permutation(split.size)
  images, labels = view(split, np.full(split.size, 3), order)
  np.testing.assert_allclose(images, less_mean(name)[order], atol=3e-5)
  np.testing.assert_array_equal(labels, arrays()[name][1][order])


def test_the_mean_color_is_one_number_a_channel_of_the_training_split():
  split = open_resident(mean="channel").splits["test"]
  train, test = (arrays()[name][0].astype(np.float64) for name in ("train", "test"))
  images, _ = view(split, np.zeros(8), np.arange(8))
  np.testing.assert_allclose(images, test - train.mean((0, 1, 2)), atol=3e-5)


def test_evaluation_is_never_augmented():
  split = open_resident(padding=2, flip=True).splits["test"]
  one, _ = view(split, np.zeros(8), np.arange(8), seed=0)
  other, _ = view(split, np.full(8, 5), np.arange(8), seed=1)
  np.testing.assert_array_equal(one, other)
  np.testing.assert_allclose(one, less_mean("test"), atol=3e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_training_views_are_windows_of_the_image_less_mean_in_a_border_of_zeros(flip):
  padding, draws = 2, 500
  split = open_resident(padding, flip).splits["train"]
  plain, _ = view(open_resident(0, False).splits["train"], [0], [7])
  assert np.all(plain != 0)
  padded = np.pad(plain[0], ((padding, padding), (padding, padding), (0, 0)))
  images, _ = view(split, np.arange(draws), np.full(draws, 7))
  counts = {}
  for top in range(2 * padding + 1):
    for left in range(2 * padding + 1):
      window = padded[top : top + SHAPE[0], left : left + SHAPE[1]]
      for mirrored in range(1 + flip):
        seen = window[:, ::-1] if mirrored else window
        counts[top, left, mirrored] = (images == seen).all((1, 2, 3)).sum()
  # Exact equality, so that the border is exactly zero; every offset, mirrored or not, alike.
  assert sum(counts.values()) == draws
  assert min(counts.values()) > 0
  assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01


def test_the_view_of_an_example_is_the_same_in_whatever_batch():
  split = open_resident().splits["train"]
  epochs, examples = np.divmod(np.arange(60), 20)
  together, _ = view(split, epochs, examples)
  order = np.random.default_rng(0).permutation(60)
  shuffled, _ = view(split, epochs[order], examples[order])
  np.testing.assert_array_equal(shuffled, together[order])
  for i in (0, 23, 59):
    alone, _ = view(split, epochs[i : i + 1], examples[i : i + 1])
    np.testing.assert_array_equal(alone[0], together[i])


def test_the_view_differs_by_epoch_and_by_key():
  split = open_resident().splits["train"]
  examples = np.arange(20)
  first, _ = view(split, np.zeros(20), examples)
  for other, _ in (view(split, np.ones(20), examples), view(split, np.zeros(20), examples, 1)):
    # 50 views are equally likely, so a few of 20 examples may show the same one twice.
    assert (first != other).any((1, 2, 3)).sum() > 14


def test_equal_images_are_seen_differently_within_one_epoch():
  pixels, labels = arrays()["train"]
  same = np.broadcast_to(pixels[:1], pixels.shape)
  config = DataConfig(mean="channel", resident=ResidentConfig(padding=2, flip=True))
  split = resident_dataset("same", {"train": (same, labels)}, "abcd", config).splits["train"]
  images, _ = view(split, np.zeros(20), np.arange(20))
  # 20 draws of 50 equally likely views show 16.6 different ones in the mean.
  assert len({image.tobytes() for image in images}) > 10


def test_the_view_is_traced_once_for_all_epochs_and_examples():
  split = open_resident().splits["train"]

  @jax.jit
  @chex.assert_max_traces(n=1)
  def traced(constants, batch, key):
    return split.view(constants, batch, key)

  for epoch in range(3):
    batch = positions(np.full(4, epoch), 4 * epoch + np.arange(4))
    traced(split.constants, batch, jax.random.key(epoch))


class ViewTest(chex.TestCase):
  """Views are pure functions of constants, batch and key, transformed every way."""

  def check(self, function):
    split = open_resident().splits["train"]
    batch = positions(np.array([0, 0, 5]), np.array([3, 4, 3]))
    arguments = split.constants, batch, jax.random.key(2)
    images, labels = self.variant(function)(*arguments)
    expected, expected_labels = jax.jit(function)(*arguments)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(labels, arrays()["train"][1][[3, 4, 3]])

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_plain_view_is_pure(self):
    self.check(plain_view)

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_training_view_is_pure(self):
    self.check(functools.partial(training_view, padding=2, flip=True))
