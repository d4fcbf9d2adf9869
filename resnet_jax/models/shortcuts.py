"""What is added to a block's branch: the paper's options A, B and C (section 3.3).

A  the identity; where the dimensions increase, extra channels of zeros (no parameters)
B  the identity; where the dimensions increase, a projection (1x1 convolution and batch norm)
C  projections everywhere
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.convolution import Conv
from resnet_jax.models.factories import ModuleFactory
from resnet_jax.models.fields import check_choice, check_part
from resnet_jax.models.normalization import BatchNorm
from resnet_jax.models.pooling import average_pool
from resnet_jax.models.subsampling import every

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
        f"features={self.features}, stride={self.stride}: an identity shortcut cannot turn "
        f"{x.shape[-1]} channels into {self.features} at stride {self.stride}; give the block "
        "shortcut=ZeroPadShortcut or ProjectionShortcut"
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
    check_part(self, x, positive=("features", "stride"))
    missing = self.features - x.shape[-1]
    if missing < 0:
      raise ValueError(
        f"features={self.features}: option A pads, and cannot reduce {x.shape[-1]} channels to "
        f"{self.features}; option B can (shortcut='B', ProjectionShortcut)"
      )
    x = every(self.stride, x)
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
    first_dilation: Of the input, in a stage that dilates where it would stride.
    dilation: Of the output there: pool_conv then takes the means that it would take striding, and
      those between. (timm's takes those of adjacent pixels at any dilation: another function.)
  """

  features: int
  stride: int = 1
  kind: Projection = "conv"
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  first_dilation: int = 1
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    check_choice("kind", self.kind, Projection)
    positive = ("features", "stride", "first_dilation", "dilation")
    check_part(self, x, positive=positive, factories=("conv", "norm"))
    stride, pools = self.stride, self.kind == "pool_conv"
    if pools and stride > 1:
      x, stride = average_pool(x, stride), 1
    elif pools and self.dilation != self.first_dilation:
      x = average_pool(x, self.dilation // self.first_dilation, self.first_dilation)
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
  check_choice("shortcut", option, ("A", "B", "C", None))
  if option is None:
    return None
  if option == "C" or (option == "B" and changes_shape):
    return projection
  return ZeroPadShortcut if changes_shape else IdentityShortcut
