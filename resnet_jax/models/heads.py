"""What turns the last feature map into logits (Table 1: average pooling and a dense layer)."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.convolution import he_fan_in
from resnet_jax.models.pooling import global_average_pool, global_max_pool

Pooling = Literal["avg", "max", "flatten", "none"]


def pool(x: jax.Array, pooling: Pooling) -> jax.Array:
  """The vector of each image that the classifier is given, float32 or wider.

  Args:
    x: (N, H, W, C).
    pooling: avg or max over all positions: (N, C). flatten: (N, H * W * C), rows first. none: the
      feature map itself, as it is.

  Raises:
    ValueError: There is no such pooling.
  """
  if pooling == "avg":
    return global_average_pool(x)
  if pooling == "max":
    return global_max_pool(x)
  if pooling == "flatten":
    return x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
  if pooling == "none":
    return x
  raise ValueError(f"head={pooling!r}: expected one of {get_args(Pooling)}")


def dense(features: int, dtype: Any, param_dtype: Any, name: str) -> nn.Dense:
  """A dense layer, He initialised over fan-in, that computes in float32 or wider."""
  return nn.Dense(
    features,
    kernel_init=he_fan_in,
    dtype=jnp.promote_types(dtype, jnp.float32),
    param_dtype=param_dtype,
    name=name,
  )
