"""The two building blocks of the paper (Fig. 5) and the stages that repeat them (Table 1)."""

from typing import Literal, get_args

import jax
from flax import linen as nn

from resnet_jax.models.layers import Activation, BatchNorm, Conv, ModuleFactory
from resnet_jax.models.shortcuts import IdentityShortcut, ShortcutOption, select_shortcut

StrideIn = Literal["1x1", "3x3"]


class BasicBlock(nn.Module):
  """Two 3x3 convolutions beside a shortcut: y = ReLU(F(x) + x) (Fig. 5 left, eq. 1).

  Attributes:
    features: Output channels.
    stride: Stride of the first convolution and of the shortcut.
    shortcut: `shortcut(features, stride, name=…)`, or None for a plain block.
    conv: Convolution: `conv(features, kernel_size, stride, name=…)`.
    norm: Normalisation after each convolution: `norm(name=…)`.
    activation: After the first normalisation and after the addition.
  """

  features: int
  stride: int = 1
  shortcut: ModuleFactory | None = IdentityShortcut
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  activation: Activation = nn.relu

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    y = self.conv(self.features, 3, self.stride, name="conv1")(x)
    y = self.activation(self.norm(name="norm1")(y))
    y = self.conv(self.features, 3, 1, name="conv2")(y)
    y = self.norm(name="norm2")(y)
    if self.shortcut is not None:
      y = y + self.shortcut(self.features, self.stride, name="shortcut")(x)
    return self.activation(y)


class BottleneckBlock(nn.Module):
  """1x1, 3x3 and 1x1 convolutions, the inner two a quarter as wide (Fig. 5 right).

  Attributes:
    features: Output channels, a multiple of 4.
    stride: Stride of the block.
    shortcut: `shortcut(features, stride, name=…)`, or None for a plain block.
    stride_in: Which convolution strides: the first 1x1, as in the paper and its released models, or
      the 3x3, which torchvision and most others call ResNet ("v1.5").
    conv: Convolution: `conv(features, kernel_size, stride, name=…)`.
    norm: Normalisation after each convolution: `norm(name=…)`.
    activation: After the first two normalisations and after the addition.
  """

  features: int
  stride: int = 1
  shortcut: ModuleFactory | None = IdentityShortcut
  stride_in: StrideIn = "1x1"
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  activation: Activation = nn.relu

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    if self.features % 4:
      raise ValueError(f"features={self.features}: a bottleneck's are a multiple of 4")
    if self.stride_in not in get_args(StrideIn):
      raise ValueError(f"stride_in={self.stride_in!r}: expected one of {get_args(StrideIn)}")
    inner = self.features // 4
    strides = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
    y = self.conv(inner, 1, strides[0], name="conv1")(x)
    y = self.activation(self.norm(name="norm1")(y))
    y = self.conv(inner, 3, strides[1], name="conv2")(y)
    y = self.activation(self.norm(name="norm2")(y))
    y = self.conv(self.features, 1, 1, name="conv3")(y)
    y = self.norm(name="norm3")(y)
    if self.shortcut is not None:
      y = y + self.shortcut(self.features, self.stride, name="shortcut")(x)
    return self.activation(y)


class Stage(nn.Module):
  """Blocks of equal width at equal resolution; the first one changes the dimensions.

  Attributes:
    block: `block(features, stride, shortcut, name=…)`, for example a partial of `BasicBlock`.
    size: Number of blocks.
    features: Output channels.
    stride: Stride of the first block.
    shortcut: Shortcut option of all blocks, or None for a plain stage.
    conv: Convolution of projections.
    norm: Normalisation of projections.
  """

  block: ModuleFactory
  size: int
  features: int
  stride: int = 1
  shortcut: ShortcutOption | None = "B"
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    for i in range(self.size):
      stride = self.stride if i == 0 else 1
      changes_shape = stride != 1 or x.shape[-1] != self.features
      shortcut = select_shortcut(self.shortcut, changes_shape, self.conv, self.norm)
      x = self.block(self.features, stride, shortcut, name=f"block{i + 1}")(x)
    return x
