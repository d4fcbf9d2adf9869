"""Random views: their distributions, and that they are pure functions of the key."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from resnet_jax.data import augment

DRAWS = 20_000
HEIGHT, WIDTH, PADDING = 4, 6, 2
KNOWN = [779046720, 374274670]  # The key of example 5 in epoch 4 of seed 3.


def keys(count=DRAWS, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def image(channels=1, dtype=np.float32):
  """No two values equal and none zero."""
  size = HEIGHT * WIDTH * channels
  return np.arange(1, size + 1).reshape(HEIGHT, WIDTH, channels).astype(dtype)


def windows(padding=PADDING):
  """All windows of the padded image, by offset."""
  padded = np.pad(image(), ((padding, padding), (padding, padding), (0, 0)))
  return {
    (top, left): padded[top : top + HEIGHT, left : left + WIDTH]
    for top in range(2 * padding + 1)
    for left in range(2 * padding + 1)
  }


@pytest.mark.parametrize("padding", [1, PADDING, 3])
def test_random_crops_are_the_windows_of_the_padded_image_equally_likely(padding):
  crop = jax.jit(jax.vmap(functools.partial(augment.random_crop, padding=padding), (0, None)))
  crops = np.asarray(crop(keys(), image())).reshape(DRAWS, -1)
  counts = [(crops == window.ravel()).all(1).sum() for window in windows(padding).values()]
  assert len(counts) == (2 * padding + 1) ** 2
  assert sum(counts) == DRAWS
  assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_random_crop_without_padding_is_the_image():
  crops = jax.vmap(lambda key: augment.random_crop(key, image(), 0))(keys(20))
  np.testing.assert_array_equal(crops, np.broadcast_to(image(), crops.shape))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_crop_and_flip_keep_the_dtype(dtype):
  x = jnp.asarray(image(), dtype)
  assert augment.random_crop(jax.random.key(0), x, 1).dtype == x.dtype
  assert augment.random_flip(jax.random.key(0), x).dtype == x.dtype


def test_random_flip_mirrors_left_to_right_half_of_the_time():
  x = image(3)
  flipped = np.asarray(jax.jit(jax.vmap(augment.random_flip, (0, None)))(keys(), x))
  same = (flipped == x).all((1, 2, 3))
  mirrored = (flipped == np.fliplr(x)).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert scipy.stats.binomtest(int(mirrored.sum()), DRAWS, 0.5).pvalue > 0.01


def color_draws(x, **settings):
  noise = functools.partial(augment.color_noise, **settings)
  return np.asarray(jax.jit(jax.vmap(noise, (0, None)))(keys(), x), np.float64)


def test_color_noise_is_one_color_for_all_pixels_of_an_image():
  x = np.zeros((HEIGHT, WIDTH, 3), np.float32)
  noisy = color_draws(x, deviation=0.1)
  np.testing.assert_array_equal(noisy, np.broadcast_to(noisy[:, :1, :1], noisy.shape))
  assert len(np.unique(noisy[:, 0, 0], axis=0)) == DRAWS


def test_color_noise_is_added_to_the_image():
  x = image(3)
  with_image, alone = color_draws(x, deviation=0.1), color_draws(np.zeros_like(x), deviation=0.1)
  np.testing.assert_allclose(with_image - alone, np.broadcast_to(x, alone.shape), atol=2e-5)


@pytest.mark.parametrize("deviation", [0.1, 0.5])
@pytest.mark.parametrize("source", ["alexnet", "own"])
def test_color_noise_has_the_covariance_of_the_components(source, deviation):
  if source == "alexnet":
    magnitudes = np.array([0.2175, 0.0188, 0.0045])
    components = np.array(
      [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    settings = {}
  else:  # Not symmetric: a transposed product would show.
    magnitudes = np.array([0.3, 0.2, 0.1])
    components = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    settings = {"magnitudes": magnitudes, "components": components}
  colors = color_draws(np.zeros((1, 1, 3), np.float32), deviation=deviation, **settings)[:, 0, 0]
  # Along each component: independent, normal, of deviation 255 * deviation * magnitude.
  along = colors @ np.linalg.inv(components).T / (255 * deviation * magnitudes)
  for axis in range(3):
    assert scipy.stats.kstest(along[:, axis], "norm").pvalue > 0.01
  # The standard error of a correlation of independent values is 1 / sqrt(n).
  correlation = np.corrcoef(along, rowvar=False)
  assert np.abs(correlation - np.eye(3)).max() < 4 / np.sqrt(DRAWS)


def test_the_alexnet_components_are_orthonormal_columns():
  components = np.array(augment.ALEXNET_COMPONENTS)
  np.testing.assert_allclose(components.T @ components, np.eye(3), atol=2e-4)


def test_no_color_noise_at_deviation_0():
  x = image(3)
  np.testing.assert_array_equal(augment.color_noise(jax.random.key(0), x, 0.0), x)


def test_each_example_of_each_epoch_has_its_own_key():
  epochs, examples = np.divmod(np.arange(900), 30)
  draw = jax.jit(jax.vmap(augment.example_key, (None, 0, 0)))
  found = {
    tuple(words)
    for seed in (0, 1)
    for words in np.asarray(jax.random.key_data(draw(jax.random.key(seed), epochs, examples)))
  }
  assert len(found) == 2 * 900


def test_the_key_of_an_example_does_not_depend_on_its_batch():
  key, epochs, examples = jax.random.key(5), np.array([3, 0, 7]), np.array([11, 2, 11])
  together = jax.vmap(augment.example_key, (None, 0, 0))(key, epochs, examples)
  for i in range(3):
    alone = augment.example_key(key, epochs[i], examples[i])
    np.testing.assert_array_equal(jax.random.key_data(alone), jax.random.key_data(together[i]))


def test_a_batch_in_place_of_an_image_is_refused():
  key, batch = jax.random.key(0), jnp.zeros((2, 4, 4, 3))
  for function in (
    functools.partial(augment.random_crop, padding=1),
    augment.random_flip,
    functools.partial(augment.color_noise, deviation=0.1),
  ):
    with pytest.raises(AssertionError):
      function(key, batch)


class PureTest(chex.TestCase):
  """The same key gives the same view however the function is transformed; another key another."""

  def check(self, function):
    transformed = self.variant(function)
    x = image(3)
    views = [np.asarray(transformed(jax.random.key(seed), x)) for seed in range(6)]
    for seed, view in enumerate(views):
      np.testing.assert_array_equal(view, transformed(jax.random.key(seed), x))
      np.testing.assert_allclose(view, function(jax.random.key(seed), x), rtol=1e-5, atol=1e-5)
    assert len({view.tobytes() for view in views}) > 1

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_random_crop_is_a_function_of_the_key(self):
    self.check(lambda key, x: augment.random_crop(key, x, PADDING))

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_random_flip_is_a_function_of_the_key(self):
    self.check(augment.random_flip)

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_color_noise_is_a_function_of_the_key(self):
    self.check(lambda key, x: augment.color_noise(key, x, 0.1))

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_example_key_is_the_same_under_every_transformation(self):
    words = self.variant(
      lambda key, epoch, example: jax.random.key_data(augment.example_key(key, epoch, example))
    )
    key = jax.random.key(3)
    # Known, so that the views of a seed cannot change unnoticed.
    np.testing.assert_array_equal(words(key, 4, 5), KNOWN)
    assert np.any(words(key, 5, 4) != words(key, 4, 5))
