"""A stage: blocks of equal width at equal resolution, one after another or scanned (Table 1)."""

import functools
from typing import Any, Literal

import jax
from flax import linen as nn

from resnet_jax.models.blocks import BasicBlock
from resnet_jax.models.convolution import Conv
from resnet_jax.models.factories import ModuleFactory
from resnet_jax.models.fields import check_choice, check_part
from resnet_jax.models.normalization import BatchNorm
from resnet_jax.models.shortcuts import ProjectionShortcut, ShortcutOption, select_shortcut

Transition = Literal["first", "last"]


class Stage(nn.Module):
  """Blocks that keep width and resolution, and one that changes them to the stage's own.

  The blocks are called block1, block2, …. With `scan` those of `repeated_blocks` are one called
  blocks, whose variables have a leading axis: `resnet_jax.models.layouts` converts.

  Attributes:
    block: `block(features, stride, shortcut, name=…)`, for example a partial of `BasicBlock`; it
      takes `preactivate` and `dilation` too where they differ from True and 1.
    size: Number of blocks.
    features: Output channels.
    stride: Stride of the block that changes the dimensions.
    shortcut: Shortcut option of all blocks, or None for a plain stage.
    conv: Convolution of projections.
    norm: Normalisation of projections.
    projection: What stands where the option projects: `projection(features, stride, conv=…, norm=…,
      name=…)`; it takes `first_dilation` and `dilation` too where these differ.
    transition: Where the block that changes the dimensions stands: first, as in the paper, or last.
    preactivate: Whether the first block activates its input, in pre-activation orders.
    first_dilation: Dilation up to the convolution that strides, or would, included.
    dilation: Of those after it.
    scan: Whether the equal blocks are one loop, so that the time to compile does not grow with
      their number. On CPUs convolutions in a loop are ten times slower.
    remat: Whether the activations within a block are computed again in the backward pass instead of
      kept.
  """

  block: ModuleFactory = BasicBlock
  size: int = 1
  features: int = 64
  stride: int = 1
  shortcut: ShortcutOption | None = "B"
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  projection: ModuleFactory = ProjectionShortcut
  transition: Transition = "first"
  preactivate: bool = True
  first_dilation: int = 1
  dilation: int = 1
  scan: bool = False
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features).

    Raises:
      ValueError: A field has no such value, or the variables are those of the other layout.
    """
    check_choice("transition", self.transition, Transition)
    positive = ("size", "features", "stride", "first_dilation", "dilation")
    check_part(self, x, positive=positive, factories=("block", "conv", "norm", "projection"))
    repeated = repeated_blocks(self.size, self.transition) if self.scan else range(0)
    self._check_layout(bool(repeated))
    for number in range(1, self.size + 1):
      if number not in repeated:
        x = self._call(self._block(number, x, f"block{number}"), x)
      elif number == repeated[0]:
        scanned = nn.scan(
          lambda block, x, _: (self._call(block, x), None),
          variable_axes={True: 0},
          split_rngs={True: True},
          length=len(repeated),
        )
        x, _ = scanned(self._block(number, x, "blocks"), x, None)
    return x

  def _block(self, number: int, x: jax.Array, name: str) -> nn.Module:
    transition = 1 if self.transition == "first" else self.size
    features, stride = x.shape[-1], 1
    if number == transition:
      features, stride = self.features, self.stride
    changes_shape = stride != 1 or features != x.shape[-1]
    projection = functools.partial(self.projection, conv=self.conv, norm=self.norm)
    if number == transition and self.dilation != self.first_dilation:
      projection = functools.partial(
        projection, first_dilation=self.first_dilation, dilation=self.dilation
      )
    shortcut = select_shortcut(self.shortcut, changes_shape, projection)
    more: dict[str, Any] = {}
    if number == 1 and not self.preactivate:
      more["preactivate"] = False
    dilation = self.first_dilation if number < transition else self.dilation
    if dilation != 1:
      more["dilation"] = dilation
    if number == transition and dilation != self.first_dilation:
      more["first_dilation"] = self.first_dilation
    return self.block(features, stride, shortcut, **more, name=name)

  def _check_layout(self, scans: bool) -> None:
    other = "block2" if scans else "blocks"
    if self.has_variable("params", other):
      convert = "to_scanned" if scans else "to_unrolled"
      raise ValueError(
        f"{'/'.join(self.path) or 'a stage'} with scan={self.scan}, size={self.size}, transition="
        f"{self.transition!r} has no {other}: resnet_jax.models.{convert} converts variables"
      )

  def _call(self, block: nn.Module, x: jax.Array) -> jax.Array:
    if not self.remat:
      return block(x)
    # In a loop nothing could merge the second computation with the first.
    return nn.remat(lambda block, x: block(x), prevent_cse=not self.scan)(block, x)


def repeated_blocks(size: int, transition: Transition = "first") -> range:
  """The numbers, from 1, of the blocks of a stage that are always alike, and so can be scanned.

  All but the one that changes the dimensions, and the first, which may not pre-activate.

  Args:
    size: Number of blocks of the stage.
    transition: Where the one that changes the dimensions stands.
  """
  return range(2, size + 1 if transition == "first" else size)
