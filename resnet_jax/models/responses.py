"""The responses of 3x3 convolutions, as the paper's Fig. 7 looks at them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn

from resnet_jax.models.blocks import Block
from resnet_jax.models.layouts import to_unrolled
from resnet_jax.models.stems import Stem
from resnet_jax.models.vgg import VGGStage


def responses(
  model: nn.Module, variables: Mapping[str, Any], images: jax.Array, train: bool = False
) -> dict[str, jax.Array]:
  """The output of each 3x3 convolution after batch norm, before non-linearity and addition.

  Where no norm follows the convolution before the addition (full pre-activation, norm after the
  addition), it is the output of the convolution.

  Args:
    model: A network of this package, or one with blocks of this package in it.
    variables: Its variables.
    images: (N, H, W, C).
    train: Whether norms take the statistics of these images.

  Returns:
    Arrays (N, H', W', C') by name of the convolution, `stage1/block1/conv1`, in the order in which
    the network computes them.
  """
  _, updated = model.apply(
    variables,
    images,
    train=train,
    mutable=["batch_stats", "intermediates"],
    capture_intermediates=_is_response,
  )
  found = dict(_flatten(to_unrolled(updated["intermediates"])))
  return {
    re.sub(r"norm(\d*)$", r"conv\1", "/".join(path)): found[path]
    for path in sorted(found, key=_place)
  }


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


def _flatten(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
  for name, content in tree.items():
    if name == "__call__":
      yield path, content[0]
    else:
      yield from _flatten(content, (*path, name))


def _place(path: tuple[str, ...]) -> tuple[tuple[bool, int], ...]:
  """Order of computation: the stem first, then by the numbers in the names."""
  return tuple((name != "stem", _kind_and_number(name)[1]) for name in path)
