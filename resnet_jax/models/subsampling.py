"""Every other pixel of feature maps."""

import jax
from jax import lax


def every(
  stride: int, x: jax.Array, first: tuple[int, int] = (0, 0), end: tuple[int, int] | None = None
) -> jax.Array:
  """`x[:, first[0]:end[0]:stride, first[1]:end[1]:stride]`.

  It is a slice too where the number of images is open, in exported programs: there JAX's indexing
  would gather.

  Args:
    stride: Distance in rows and columns.
    x: (N, H, W, C).
    first: Row and column of the first pixel.
    end: Those before which it ends; None for H and W.
  """
  images, *size, channels = x.shape
  if stride == 1 and first == (0, 0) and end is None:
    return x
  return lax.slice(x, (0, *first, 0), (images, *(end or size), channels), (1, stride, stride, 1))
