"""Residual networks and their plain twins, for ImageNet and for CIFAR (paper, Table 1 and 4.2)."""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, Stage, StrideIn
from resnet_jax.models.layers import (
  Activation,
  BatchNorm,
  Conv,
  ModuleFactory,
  global_average_pool,
  he_fan_in,
  max_pool,
)
from resnet_jax.models.shortcuts import ShortcutOption

Block = Literal["basic", "bottleneck"]
StemName = Literal["imagenet", "cifar"]
FLOATS = ("float32", "bfloat16", "float16", "float64")


class ResNet(nn.Module):
  """Stem, stages, global average pooling, classifier.

  Each stage halves the resolution and doubles the width of the one before; the first keeps both.
  Parameters are named stem, stage1, stage2, … and head; blocks are stage1.block1, ….

  Attributes:
    stage_sizes: Number of blocks in each stage.
    block: basic (two 3x3 convolutions) or bottleneck (1x1, 3x3, 1x1; four times as wide).
    width: Channels of the stem and of the 3x3 convolutions of the first stage.
    stem: imagenet (7x7 convolution and max-pooling, both of stride 2) or cifar (3x3 convolution).
    shortcut: A, B or C (paper, section 3.3); None for a plain network.
    stride_in: The convolution that strides in a bottleneck: 1x1 as in the paper, or 3x3 ("v1.5").
    num_classes: Number of classes.
    pool_padding: Before and after, of the stem's max-pooling: (0, 1) as Caffe, (1, 1) as PyTorch.
    dtype: Of the computation, by name or as `jnp.bfloat16`; batch statistics and logits are float32
      or wider.
    param_dtype: Of the parameters.
    norm: Normalisation: a partial of `BatchNorm`, or a factory that takes `use_running_average`,
      `dtype`, `param_dtype` and `name`.
    activation: The non-linearity.
  """

  stage_sizes: tuple[int, ...]
  block: Block = "basic"
  width: int = 64
  stem: StemName = "imagenet"
  shortcut: ShortcutOption | None = "B"
  stride_in: StrideIn = "1x1"
  num_classes: int = 1000
  pool_padding: tuple[int, int] = (0, 1)
  dtype: str = "float32"
  param_dtype: str = "float32"
  norm: ModuleFactory = BatchNorm
  activation: Activation = nn.relu

  def __post_init__(self) -> None:
    """Checks what has a finite set of values, before anything is traced."""
    for name, allowed in (
      ("block", get_args(Block)),
      ("stem", get_args(StemName)),
      ("shortcut", (*get_args(ShortcutOption), None)),
      ("stride_in", get_args(StrideIn)),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")
    if self.block == "basic" and self.stride_in != "1x1":
      raise ValueError(f"stride_in={self.stride_in!r}: only bottleneck blocks have a choice")
    sizes = self.stage_sizes if isinstance(self.stage_sizes, tuple) else ()
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
      raise ValueError(f"stage_sizes={self.stage_sizes!r}: expected a tuple of positive integers")
    for name in ("width", "num_classes"):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: expected a positive integer")
    if self.pool_padding not in ((0, 0), (0, 1), (1, 0), (1, 1)):
      raise ValueError(f"pool_padding={self.pool_padding!r}: expected (0, 1), or (1, 1) as PyTorch")
    for name in ("dtype", "param_dtype"):
      if not _is_float(getattr(self, name)):
        raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {FLOATS}")
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False, return_features: bool = False) -> Any:
    """Logits of a batch of images.

    Args:
      images: (N, H, W, C), any float dtype.
      train: Normalise by the batch's statistics and update the running ones (collection
        `batch_stats`, to be passed as `mutable`).
      return_features: Also return the feature maps.

    Returns:
      Logits (N, num_classes), float32 or wider; with `return_features` also a dictionary of the
      outputs of `stem`, `stage1`, `stage2`, …, each (N, H', W', C') in `dtype`.
    """
    dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    conv = functools.partial(Conv, **dtypes)
    norm = functools.partial(self.norm, use_running_average=not train, **dtypes)
    block: ModuleFactory = functools.partial(
      BasicBlock, conv=conv, norm=norm, activation=self.activation
    )
    if self.block == "bottleneck":
      block = functools.partial(
        BottleneckBlock,
        stride_in=self.stride_in,
        conv=conv,
        norm=norm,
        activation=self.activation,
      )
    x = Stem(self.width, self.stem, self.pool_padding, conv, norm, self.activation, name="stem")(
      images
    )
    features = {"stem": x}
    for i, size in enumerate(self.stage_sizes):
      channels = self.width * 2**i * (4 if self.block == "bottleneck" else 1)
      stage = Stage(
        block, size, channels, 1 if i == 0 else 2, self.shortcut, conv, norm, name=f"stage{i + 1}"
      )
      features[f"stage{i + 1}"] = x = stage(x)
    logits = nn.Dense(
      self.num_classes,
      kernel_init=he_fan_in,
      dtype=jnp.promote_types(self.dtype, jnp.float32),
      param_dtype=self.param_dtype,
      name="head",
    )(global_average_pool(x))
    return (logits, features) if return_features else logits


def _is_float(dtype: Any) -> bool:
  try:
    return jnp.dtype(dtype).name in FLOATS
  except TypeError:
    return False


class Stem(nn.Module):
  """What stands before the first stage (Table 1, conv1 and the pooling of conv2_x; section 4.2).

  Attributes:
    features: Output channels.
    kind: imagenet (7x7 convolution of stride 2, then 3x3 max-pooling of stride 2) or cifar (3x3).
    pool_padding: Before and after, of the max-pooling.
    conv: Convolution: `conv(features, kernel_size, stride, name=…)`.
    norm: Normalisation after the convolution: `norm(name=…)`.
    activation: After the normalisation.
  """

  features: int
  kind: StemName = "imagenet"
  pool_padding: tuple[int, int] = (0, 1)
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  activation: Activation = nn.relu

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H / 4, W / 4, features), or (N, H, W, features) for cifar."""
    kernel_size, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
    x = self.conv(self.features, kernel_size, stride, name="conv")(images)
    x = self.activation(self.norm(name="norm")(x))
    return max_pool(x, self.pool_padding) if self.kind == "imagenet" else x
