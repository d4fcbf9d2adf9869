"""Variables of scanned networks, and the same ones unrolled: the layout that is stored on disk."""

import operator
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.models.stages import Transition, repeated_blocks


def to_scanned(tree: Any, transition: Transition = "first") -> Any:
  """Turns variables of a network into those of the same network with `scan=True`.

  Args:
    tree: Its variables, its parameters, or any nest with dictionaries of their form: an optimizer's
      or a train state.
    transition: As the network's.

  Returns:
    The same nest, in which the equal blocks of each stage are one, called `blocks`, whose leaves
    have a new first axis.
  """

  def stack(stage: dict[str, Any]) -> dict[str, Any]:
    names = [f"block{number}" for number in repeated_blocks(len(stage), transition)]
    if not names or "blocks" in stage:
      return stage
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(stage[name] for name in names))
    return {name: block for name, block in stage.items() if name not in names} | {"blocks": stacked}

  return _map_stages(stack, tree)


def to_unrolled(tree: Any) -> Any:
  """The inverse of `to_scanned`."""

  def unstack(stage: dict[str, Any]) -> dict[str, Any]:
    if "blocks" not in stage:
      return stage
    single = {name: block for name, block in stage.items() if name != "blocks"}
    length = len(jax.tree.leaves(stage["blocks"])[0])
    names = [f"block{i}" for i in range(1, len(single) + length + 1)]
    repeated = (jax.tree.map(operator.itemgetter(i), stage["blocks"]) for i in range(length))
    return {name: single[name] if name in single else next(repeated) for name in names}

  return _map_stages(unstack, tree)


def _map_stages(function: Callable[[dict[str, Any]], dict[str, Any]], tree: Any) -> Any:
  """Applies a function to each dictionary of blocks that is called stage1, stage2, …."""

  def convert(node: Any) -> Any:
    if not isinstance(node, dict):
      return node
    return {
      name: function(content) if _is_stage(name, content) else convert(content)
      for name, content in node.items()
    }

  return jax.tree.map(convert, tree, is_leaf=lambda node: isinstance(node, dict))


def _is_stage(name: str, content: Any) -> bool:
  is_named = re.fullmatch(r"stage\d+", name) is not None
  return is_named and isinstance(content, dict) and any(key.startswith("block") for key in content)
