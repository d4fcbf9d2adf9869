"""What is added to a block's branch: the paper's options A, B and C (section 3.3).

A  the identity; where the dimensions increase, extra channels of zeros (no parameters)
B  the identity; where the dimensions increase, a projection (1x1 convolution and batch norm)
C  projections everywhere
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.convolution import Conv
from resnet_jax.models.factories import ModuleFactory
from resnet_jax.models.normalization import BatchNorm
from resnet_jax.models.pooling import average_pool

ShortcutOption = Literal["A", "B", "C"]
Projection = Literal["conv", "pool_conv"]


class IdentityShortcut(nn.Module):
  """The input itself; `features` and `stride` must not change its shape.

  Attributes:
    features: Output channels.
    stride: 1.
  """

  features: int
  stride: int = 1

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, features) -> the same."""
    if self.stride != 1 or x.shape[-1] != self.features:
      raise ValueError(
        f"an identity shortcut cannot turn {x.shape[-1]} channels into {self.features} at stride "
        f"{self.stride}: use ZeroPadShortcut or ProjectionShortcut"
      )
    return x


class ZeroPadShortcut(nn.Module):
  """Option A: every stride-th row and column, and zeros for the channels that are missing.

  The zeros come after the input's channels.

  Attributes:
    features: Output channels, at least the input's.
    stride: Stride in both directions.
  """

  features: int
  stride: int = 1

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    missing = self.features - x.shape[-1]
    if missing < 0:
      raise ValueError(f"option A cannot reduce {x.shape[-1]} channels to {self.features}")
    x = x[:, :: self.stride, :: self.stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))


class ProjectionShortcut(nn.Module):
  """Options B and C: a 1x1 convolution and a batch norm (paper, eq. 2).

  Attributes:
    features: Output channels.
    stride: Stride in both directions.
    kind: conv: the convolution strides, as in the paper. pool_conv: an average pooling does, so
      that no pixel is left out (ResNet-D, arXiv 1812.01187).
    conv: Convolution: `conv(features, kernel_size, stride, name=…)`.
    norm: Normalisation: `norm(name=…)`.
  """

  features: int
  stride: int = 1
  kind: Projection = "conv"
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    stride = self.stride
    if self.kind == "pool_conv" and stride > 1:
      x, stride = average_pool(x, stride), 1
    x = self.conv(self.features, 1, stride, name="conv")(x)
    return self.norm(name="norm")(x)


def select_shortcut(
  option: ShortcutOption | None,
  changes_shape: bool,
  projection: ModuleFactory = ProjectionShortcut,
) -> ModuleFactory | None:
  """The shortcut that an option puts beside one block.

  Args:
    option: A, B, C, or None for a plain network.
    changes_shape: Whether the block changes the number of channels or the size.
    projection: What stands where the option projects.

  Returns:
    A factory that takes `features` and `stride`, or None.

  Raises:
    ValueError: There is no such option.
  """
  if option is None:
    return None
  if option not in get_args(ShortcutOption):
    raise ValueError(
      f"shortcut={option!r}: expected one of {get_args(ShortcutOption)}, or None for a plain "
      "network"
    )
  if option == "C" or (option == "B" and changes_shape):
    return projection
  return ZeroPadShortcut if changes_shape else IdentityShortcut
