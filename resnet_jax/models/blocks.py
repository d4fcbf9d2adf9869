"""The two building blocks of the paper (Fig. 5), with the parts of a unit in any order.

The orders are those of arXiv 1603.05027, Fig. 4 and Table 2. W is a convolution, N a norm, R the
activation; a third W stands in bottlenecks likewise:

  original                  x -> W N R W N -> addition -> R        (the paper)
  norm_after_addition       x -> W N R W -> addition -> N R
  relu_before_addition      x -> W N R W N R -> addition
  relu_only_preactivation   x -> R W N R W N -> addition
  full_preactivation        x -> N R W N R W -> addition
"""

import functools
from typing import ClassVar, Literal, NamedTuple

import jax
from flax import linen as nn

from resnet_jax.models.additions import Addition
from resnet_jax.models.convolution import Conv
from resnet_jax.models.factories import Activation, ModuleFactory
from resnet_jax.models.fields import check_choice, check_integer, check_part
from resnet_jax.models.normalization import BatchNorm
from resnet_jax.models.shortcuts import IdentityShortcut

StrideIn = Literal["1x1", "3x3"]
UnitOrder = Literal[
  "original",
  "norm_after_addition",
  "relu_before_addition",
  "relu_only_preactivation",
  "full_preactivation",
]
# Orders whose output is not activated: what follows them has to do it.
PREACTIVATIONS = ("relu_only_preactivation", "full_preactivation")
# Orders whose branch ends with a norm, without which a branch cannot start at zero and still learn.
_BRANCH_ENDS_WITH_NORM = ("original", "relu_only_preactivation")


def check_order(order: UnitOrder, zero_init_residual: bool) -> None:
  """Raises a ValueError unless there is such an order, and one whose branch can start at zero."""
  check_choice("order", order, UnitOrder)
  if zero_init_residual and order not in _BRANCH_ENDS_WITH_NORM:
    raise ValueError(
      f"zero_init_residual=True: with order={order!r} no branch ends with the norm that would "
      f"start at zero; it does with one of {_BRANCH_ENDS_WITH_NORM}"
    )


class Layer(NamedTuple):
  """A convolution of a branch."""

  features: int
  kernel_size: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1


class Block(nn.Module):
  """What blocks have in common: everything but the convolutions of their branch.

  A block of your own is a subclass with `layers`; `ResNet` takes it as `block`.

  Attributes:
    expansion: Of the class: channels of a block in a network, over those of a basic one.
    features: Output channels.
    stride: Stride of the block.
    shortcut: `shortcut(features, stride, name=…)`, or None for a plain block.
    conv: Convolution: `conv(features, kernel_size, stride, name=…)`, with `dilation` and `groups`
      where they are not 1.
    norm: Normalisation: `norm(name=…)`, with `scale_init` for `zero_init_residual`; `NoNorm` for
      none.
    activation: The non-linearity.
    order: Of convolutions, norms, activations and addition.
    preactivate: Whether a pre-activation order starts with its activation; not in the first block
      of a network, whose input is activated already (1603.05027, appendix). Where the shortcut is
      not the identity, it starts both ways.
    addition: Called with (shortcut, branch): `addition(name=…)`.
    attention: Applied to the branch before the addition, `attention(name=…)`, for example
      `SqueezeExcitation`; None for none.
    dilation: Of the 3x3 convolutions after the one that strides, or would.
    first_dilation: Of the others; None for `dilation`.
    zero_init_residual: Whether the scale of the branch's last norm starts at zero, and so the block
      as the identity (arXiv 1706.02677, 5.1); not in the paper.
  """

  expansion: ClassVar[int] = 1

  features: int
  stride: int = 1
  shortcut: ModuleFactory | None = IdentityShortcut
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  activation: Activation = nn.relu
  order: UnitOrder = "original"
  preactivate: bool = True
  addition: ModuleFactory = Addition
  attention: ModuleFactory | None = None
  dilation: int = 1
  first_dilation: int | None = None
  zero_init_residual: bool = False

  def layers(self) -> tuple[Layer, ...]:
    """The convolutions of the branch, conv1 first."""
    raise NotImplementedError(
      f"{type(self).__name__} has no layers(): a block defines it, the convolutions of its branch"
    )

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features).

    Raises:
      ValueError: An attribute has no such value, or does not fit the others or the input.
    """
    check_order(self.order, self.zero_init_residual)
    check_part(
      self,
      x,
      positive=("features", "stride", "dilation"),
      factories=("conv", "norm", "addition"),
      optional=("shortcut", "attention"),
      functions=("activation",),
    )
    layers, full = self.layers(), self.order == "full_preactivation"
    shortcut = None
    if self.shortcut is not None:
      shortcut = self.shortcut(self.features, self.stride, name="shortcut")
    y = x
    if self.preactivate and self.order in PREACTIVATIONS:
      y = self.activation(self._norm(1)(x) if full else x)
      if not isinstance(shortcut, IdentityShortcut):
        x = y
    for i, layer in enumerate(layers, 1):
      if full and i > 1:
        y = self.activation(self._norm(i)(y))
      y = self._conv(i, layer)(y)
      if not full and not (i == len(layers) and self.order == "norm_after_addition"):
        y = self._norm(i)(y)
      if (i < len(layers) and not full) or self.order == "relu_before_addition":
        y = self.activation(y)
    if self.attention is not None:
      y = self.attention(name="attention")(y)
    if shortcut is not None:
      y = self.addition(name="addition")(shortcut(x), y)
    if self.order == "norm_after_addition":
      y = self._norm(len(layers))(y)
    return self.activation(y) if self.order in ("original", "norm_after_addition") else y

  def _conv(self, number: int, layer: Layer) -> nn.Module:
    more = {"dilation": layer.dilation, "groups": layer.groups}
    more = {name: value for name, value in more.items() if value != 1}
    name = f"conv{number}"
    return self.conv(layer.features, layer.kernel_size, layer.stride, **more, name=name)

  def _norm(self, number: int) -> nn.Module:
    norm = self.norm
    if self.zero_init_residual and number == len(self.layers()):
      norm = functools.partial(norm, scale_init=nn.initializers.zeros_init())
    return norm(name=f"norm{number}")


class BasicBlock(Block):
  """Two 3x3 convolutions beside a shortcut: y = ReLU(F(x) + x) (Fig. 5 left, eq. 1).

  The first convolution strides.
  """

  def layers(self) -> tuple[Layer, ...]:
    """Two 3x3 convolutions."""
    return (
      Layer(self.features, 3, self.stride, self.first_dilation or self.dilation),
      Layer(self.features, 3, 1, self.dilation),
    )


class BottleneckBlock(Block):
  """1x1, 3x3 and 1x1 convolutions, the inner two narrower (Fig. 5 right).

  Attributes:
    stride_in: Which convolution strides: the first 1x1, as in the paper and its released models, or
      the 3x3, which torchvision and most others call ResNet ("v1.5").
    groups: Groups of the 3x3 convolution (cardinality, arXiv 1611.05431).
    width_per_group: 3x3 channels a group, in 64ths of the paper's, a quarter of `features` rounded
      down: 4 with 32 groups is ResNeXt 32x4d, 128 with one torchvision's wide_resnet.
  """

  expansion: ClassVar[int] = 4

  stride_in: StrideIn = "1x1"
  groups: int = 1
  width_per_group: int = 64

  def layers(self) -> tuple[Layer, ...]:
    """1x1, 3x3 and 1x1 convolution."""
    check_choice("stride_in", self.stride_in, StrideIn)
    check_integer("groups", self.groups, 1)
    inner = channels_per_group(max(self.features // 4, 1), self.width_per_group) * self.groups
    first, second, dilation = self.stride, 1, self.dilation
    if self.stride_in == "3x3":
      first, second, dilation = 1, self.stride, self.first_dilation or dilation
    return (
      Layer(inner, 1, first),
      Layer(inner, 3, second, dilation, self.groups),
      Layer(self.features, 1),
    )


def channels_per_group(width: int, width_per_group: int) -> int:
  """3x3 channels of a bottleneck in each group, given the paper's width of its 3x3 convolution.

  Raises:
    ValueError: They are none.
  """
  check_integer("width_per_group", width_per_group, 1)
  channels = width * width_per_group // 64
  if channels < 1:
    raise ValueError(
      f"width_per_group={width_per_group}: in 64ths of a width of {width} these are no channels; "
      f"expected at least {-(-64 // width)}"
    )
  return channels
