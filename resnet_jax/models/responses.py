"""The responses of 3x3 convolutions, as the paper's Fig. 7 looks at them."""

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import jax
from flax import linen as nn

from resnet_jax.models.blocks import Block
from resnet_jax.models.stages import repeated_blocks
from resnet_jax.models.stems import Stem
from resnet_jax.models.vgg import VGGStage

_Path = tuple[str, ...]


def responses(
  model: nn.Module, variables: Mapping[str, Any], *inputs: Any, rngs: Any = None, **keywords: Any
) -> dict[str, jax.Array]:
  """The output of each 3x3 convolution after batch norm, before non-linearity and addition.

  Where no norm follows the convolution before the addition (full pre-activation, norm after the
  addition), it is the output of the convolution.

  Args:
    model: A network of this package, a part of one, or a module with blocks of this package in it.
    variables: Its variables.
    *inputs: What it is called with: images (N, H, W, C), and `train` for those that take it, so
      that norms take the statistics of these images.
    rngs: As `apply` takes them: a `dropout` key for shortcuts that drop in training.
    **keywords: What it is called with by name.

  Returns:
    Arrays (N, H', W', C') by name of the convolution, `stage1/block1/conv1`, in the order in which
    they are computed. Of a module that is called several times, the first call's.
  """
  order: dict[_Path, None] = {}

  def record(module: nn.Module, method: str) -> bool:
    found = _is_response(module, method)
    if found:
      order[module.path] = None
    return found

  _, updated = model.apply(
    variables,
    *inputs,
    rngs=rngs,
    mutable=["batch_stats", "intermediates"],
    capture_intermediates=record,
    **keywords,
  )
  found: dict[str, jax.Array] = {}
  for loop, group in groupby(order, key=_loop):
    outputs = {path: _output(updated["intermediates"], path) for path in group}
    if loop is None:
      found |= {_name(path): y for path, y in outputs.items()}
      continue
    # The blocks of a loop are one module, whose output has a leading axis for them.
    for i in range(len(next(iter(outputs.values())))):
      block = (*loop[:-1], f"block{repeated_blocks(2)[0] + i}")
      found |= {_name((*block, *path[len(loop) :])): y[i] for path, y in outputs.items()}
  return found


def _loop(path: _Path) -> _Path | None:
  """The path of the scanned blocks that a module stands in, if it does."""
  return path[: path.index("blocks") + 1] if "blocks" in path else None


def _output(intermediates: Any, path: _Path) -> jax.Array:
  for name in path:
    intermediates = intermediates[name]
  return intermediates["__call__"][0]


def _name(path: _Path) -> str:
  return re.sub(r"norm(\d*)$", r"conv\1", "/".join(path))


def _is_response(module: nn.Module, method: str) -> bool:
  """Whether the output of a module is the response of a 3x3 convolution."""
  kind, number = _kind_and_number(module.name or "")
  parent = module.parent
  if method != "__call__" or kind not in ("conv", "norm"):
    return False
  if isinstance(parent, VGGStage):
    return kind == "norm"
  if isinstance(parent, Stem):
    return kind == "norm" and parent.kind != "imagenet"
  if not isinstance(parent, Block):
    return False
  layers = parent.layers()
  norm_follows = parent.order != "full_preactivation" and not (
    parent.order == "norm_after_addition" and number == len(layers)
  )
  return layers[number - 1].kernel_size == 3 and kind == ("norm" if norm_follows else "conv")


def _kind_and_number(name: str) -> tuple[str, int]:
  match = re.fullmatch(r"([a-z]+)(\d*)", name)
  return (match[1], int(match[2] or 1)) if match else ("", 0)
