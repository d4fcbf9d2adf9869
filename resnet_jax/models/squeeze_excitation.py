"""Channels weighted by what the whole picture says of them (arXiv 1709.01507)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.convolution import he_fan_in
from resnet_jax.models.factories import Activation
from resnet_jax.models.fields import check_part
from resnet_jax.models.pooling import global_average_pool


class SqueezeExcitation(nn.Module):
  """x * sigmoid(W2 activation(W1 mean(x))), at the end of a branch, before the addition.

  Attributes:
    reduction: Channels divided by those between W1 and W2.
    activation: Between W1 and W2.
    dtype: Of the computation; None for the promotion of input and parameters.
    param_dtype: Of the kernels and biases of the two dense layers `reduce` and `expand`.
  """

  reduction: int = 16
  activation: Activation = nn.relu
  dtype: jax.typing.DTypeLike | None = None
  param_dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H, W, C)."""
    check_part(self, x, positive=("reduction",), functions=("activation",))
    channels = x.shape[-1]

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(
        features, kernel_init=he_fan_in, dtype=self.dtype, param_dtype=self.param_dtype, name=name
      )

    squeezed = dense(max(channels // self.reduction, 1), "reduce")(global_average_pool(x))
    weights = nn.sigmoid(dense(channels, "expand")(self.activation(squeezed)))
    return x * weights[:, None, None].astype(x.dtype)
