"""Pooling: the stem's maximum, and what turns the last feature map into one vector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from resnet_jax.models.platforms import by_platform
from resnet_jax.models.subsampling import every

POOL_PADDINGS = ((0, 0), (0, 1), (1, 0), (1, 1))


def max_pool(x: jax.Array, padding: tuple[int, int] = (0, 1)) -> jax.Array:
  """The stem's 3x3 max-pooling of stride 2; what is padded never wins.

  Args:
    x: (N, H, W, C).
    padding: Rows above and below, and columns left and right. Caffe's, so the paper's, is (0, 1);
      PyTorch's (1, 1).

  Raises:
    ValueError: There are fewer than 3 x 3 pixels, the padding included.
  """
  if min(x.shape[1:3]) + sum(padding) < 3:
    raise ValueError(f"max-pooling of {x.shape[1:3]} pixels with padding={padding}: 3x3 are needed")
  return by_platform(
    x,
    cpu=functools.partial(max_pool_of_slices, padding=padding),
    default=lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=(padding, padding)),
  )


def max_pool_of_slices(x: jax.Array, padding: tuple[int, int] = (0, 1)) -> jax.Array:
  """Computes `max_pool` from nine strided slices, whose gradient is far faster on CPUs.

  Of equal values in a window, the first gets the gradient, as in XLA's own pooling.
  """
  pads = ((0, 0), padding, padding, (0, 0))
  x = jnp.pad(x, pads, constant_values=-jnp.inf)
  rows, columns = ((size - 3) // 2 + 1 for size in x.shape[1:3])
  slices = [
    every(2, x, (row, column), (row + 2 * rows - 1, column + 2 * columns - 1))
    for row in range(3)
    for column in range(3)
  ]
  largest = slices[0]
  for other in slices[1:]:
    # A NaN, which no comparison holds for, stays.
    largest = jnp.where((largest >= other) | jnp.isnan(largest), largest, other)
  return largest


def average_pool(x: jax.Array, window: int, dilation: int | None = None) -> jax.Array:
  """Means over windows, those cut off by the border over what is there.

  As ResNet-D's shortcut takes it (arXiv 1812.01187, section 4).

  Args:
    x: (N, H, W, C).
    window: Rows and columns of a window, and the stride.
    dilation: Distance between the pixels of a window, the stride then being 1: the means of the
      strided pooling and those between, of a map that itself was dilated so. None for adjacent
      pixels and the stride.

  Returns:
    (N, ceil(H / window), ceil(W / window), C), or (N, H, W, C) with a dilation.
  """
  stride = window if dilation is None else 1
  span = (window - 1) * (dilation or 1)
  padding = tuple((0, span if dilation else -size % window) for size in x.shape[1:3])

  def sums(x: jax.Array) -> jax.Array:
    return lax.reduce_window(
      x,
      np.zeros((), x.dtype),  # A constant: the sum of JAX that has a gradient.
      lax.add,
      window_dimensions=(1, window, window, 1),
      window_strides=(1, stride, stride, 1),
      padding=((0, 0), *padding, (0, 0)),
      window_dilation=(1, dilation or 1, dilation or 1, 1),
    )

  return sums(x) / sums(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def global_average_pool(x: jax.Array) -> jax.Array:
  """Returns the means over all positions: (N, H, W, C) -> (N, C), float32 or wider."""
  return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def global_max_pool(x: jax.Array) -> jax.Array:
  """Returns the maxima over all positions: (N, H, W, C) -> (N, C), float32 or wider.

  Of equal maxima, the first in row-major order gets the gradient, as in `max_pool`; `jnp.max` would
  divide it among them. The maximum of a channel with a NaN is NaN.
  """
  # The gradient of `x.max()` compares x with its maximum. XLA may recompute x for that, with other
  # rounding, and then nothing is equal; an index is not rounded. A mask replaces a gather, because
  # the gradient of a gather is a scatter, which is slow on GPUs in deterministic mode.
  x = x.reshape(x.shape[0], -1, x.shape[-1])
  first = jnp.argmax(x, axis=1, keepdims=True)
  is_first = first == jnp.arange(x.shape[1])[:, None]
  maxima = jnp.where(is_first, x, 0).sum(1)
  return maxima.astype(jnp.promote_types(x.dtype, jnp.float32))
