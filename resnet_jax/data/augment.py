"""Random views of one image, as pure functions of a key: crop, mirror, colour.

Each works on one image (H, W, C) and is mapped over a batch with `jax.vmap`. What example i of
epoch e looks like follows from `example_key` alone: not from threads, hosts, devices or restarts.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

# Principal components of ImageNet's RGB values on the scale [0, 1], as published with AlexNet's
# colour augmentation: the magnitude along each component, and the components as columns.
ALEXNET_MAGNITUDES = (0.2175, 0.0188, 0.0045)
ALEXNET_COMPONENTS = (
  (-0.5675, 0.7192, 0.4009),
  (-0.5808, -0.0045, -0.8140),
  (-0.5836, -0.6948, 0.4203),
)


def example_key(key: jax.Array, epoch: jax.Array, example: jax.Array) -> jax.Array:
  """The key of one example in one epoch; `jax.vmap` it over a batch.

  Args:
    key: The run's key, scalar.
    epoch: Epoch, int scalar.
    example: Number of the example in the training split, int scalar.
  """
  return jax.random.fold_in(jax.random.fold_in(key, epoch), example)


def random_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
  """Pads by zeros on all four sides and crops the original size at random (paper, section 4.2).

  All (2 * padding + 1) ** 2 offsets are equally likely.

  Args:
    key: Random key.
    image: (H, W, C). Zeros are what the padding adds, so subtract the mean first.
    padding: Pixels on each side.

  Returns:
    (H, W, C), the dtype of `image`.
  """
  chex.assert_rank(image, 3)
  padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
  return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
  """Mirrors an image (H, W, C) left to right with probability 1/2."""
  chex.assert_rank(image, 3)
  return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def color_noise(
  key: jax.Array,
  image: jax.Array,
  deviation: float,
  magnitudes: jax.typing.ArrayLike | Sequence[float] = ALEXNET_MAGNITUDES,
  components: jax.typing.ArrayLike | Sequence[Sequence[float]] = ALEXNET_COMPONENTS,
) -> jax.Array:
  """Adds one random colour to a whole image, along the principal components of RGB.

  The "standard color augmentation" of the paper (section 3.4), Krizhevsky et al. 2012, section 4.1:
  components @ (alpha * magnitudes) with alpha ~ N(0, deviation) drawn once an image.

  Args:
    key: Random key.
    image: (H, W, 3), float, on the scale [0, 255]; a mean may have been subtracted.
    deviation: Standard deviation of alpha; 0.1 in that paper.
    magnitudes: (3,), on the scale [0, 1].
    components: (3, 3), a component a column.
  """
  chex.assert_shape(image, (None, None, 3))
  alpha = deviation * jax.random.normal(key, (3,), image.dtype)
  color = jnp.asarray(components, image.dtype) @ (alpha * jnp.asarray(magnitudes, image.dtype))
  return image + 255 * color


def color_jitter(
  key: jax.Array,
  image: jax.Array,
  brightness: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  contrast: float = 0.0,
) -> jax.Array:
  """Random brightness, saturation, hue and contrast, in this order, by the library PIX.

  Inception's recipe has 32/255, 0.5, 0.2, 0.5. Each is drawn uniformly; 0 leaves it out.

  Args:
    key: Random key.
    image: (H, W, 3), float, on the scale [0, 255], no mean subtracted.
    brightness: Largest shift, where white is 1.
    saturation: Saturation is multiplied by 1 - this to 1 + this.
    hue: Largest turn, where 1 is the whole circle.
    contrast: Contrast is multiplied by 1 - this to 1 + this.

  Returns:
    (H, W, 3), clipped to [0, 255].
  """
  import dm_pix

  chex.assert_shape(image, (None, None, 3))
  keys = jax.random.split(key, 4)
  image = image / 255
  if brightness:
    image = dm_pix.random_brightness(keys[0], image, brightness)
  if saturation:
    image = dm_pix.random_saturation(keys[1], image, 1 - saturation, 1 + saturation)
  if hue:
    image = dm_pix.random_hue(keys[2], image, hue)
  if contrast:
    image = dm_pix.random_contrast(keys[3], image, 1 - contrast, 1 + contrast)
  return 255 * jnp.clip(image, 0, 1)
