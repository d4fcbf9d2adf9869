"""Variables of scanned networks, and the same ones unrolled: the layout that is stored on disk.

A stage is recognised by the names of its blocks, block1, block2, … or blocks, wherever it stands.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.models.fields import check_choice
from resnet_jax.models.stages import Transition, repeated_blocks

_FIRST = repeated_blocks(2)[0]  # The number of the first block that is scanned.


def to_scanned(tree: Any, transition: Transition = "first") -> Any:
  """Turns variables of a network into those of the same network with `scan=True`.

  Args:
    tree: Its variables, its parameters, or any nest with dictionaries of their form: an optimizer's
      or a train state. Those of several seeds: `jax.vmap(to_scanned)(tree)`.
    transition: As the network's.

  Returns:
    The same nest, in which the equal blocks of each stage are one, called `blocks`, whose leaves
    have a new first axis.

  Raises:
    ValueError: The blocks to be scanned are not alike; variables of several seeds.
  """
  check_choice("transition", transition, Transition)

  def stack(stage: dict[str, Any]) -> dict[str, Any]:
    if "blocks" in stage:
      return stage
    size = max(int(name.removeprefix("block")) for name in stage)
    names = [f"block{number}" for number in repeated_blocks(size, transition)]
    if not names or not stage.keys() >= set(names):
      return stage
    repeated = [stage[name] for name in names]
    for name, block in zip(names, repeated, strict=True):
      if jax.tree.map(jnp.shape, block) != jax.tree.map(jnp.shape, repeated[0]):
        raise ValueError(
          f"transition={transition!r}: {names[0]} and {name} of a stage differ in their variables, "
          "and cannot be scanned; is the network's transition another?"
        )
    _check_single(repeated[0], 4, "to_scanned")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *repeated)
    return {name: block for name, block in stage.items() if name not in names} | {"blocks": stacked}

  return _map_stages(stack, tree)


def to_unrolled(tree: Any) -> Any:
  """The inverse of `to_scanned`.

  Raises:
    ValueError: Variables of several seeds: `jax.vmap(to_unrolled)(tree)` converts these.
  """

  def unstack(stage: dict[str, Any]) -> dict[str, Any]:
    leaves = jax.tree.leaves(stage.get("blocks", {}))
    if not leaves:
      return stage
    _check_single(stage["blocks"], 5, "to_unrolled")
    blocks = {name: block for name, block in stage.items() if name != "blocks"}
    for i, name in enumerate(block_names(len(leaves[0]))):
      blocks[name] = jax.tree.map(lambda leaf, i=i: leaf[i], stage["blocks"])
    return {name: blocks[name] for name in sorted(blocks, key=lambda name: int(name[5:]))}

  return _map_stages(unstack, tree)


def block_names(count: int) -> list[str]:
  """What the blocks of a stage are called, in order, that `count` scanned ones are unrolled to."""
  return [f"block{_FIRST + i}" for i in range(count)]


def is_stage(node: dict[str, Any]) -> bool:
  """Whether a dictionary holds nothing but blocks: block1, block2, … or blocks."""
  return bool(node) and all(re.fullmatch(r"block([1-9]\d*|s)", str(name)) for name in node)


def _map_stages(function: Callable[[dict[str, Any]], dict[str, Any]], tree: Any) -> Any:
  """Applies a function to each dictionary of nothing but blocks."""

  def convert(node: Any) -> Any:
    if not isinstance(node, dict):
      return node
    node = {name: _map_stages(function, content) for name, content in node.items()}
    return function(node) if is_stage(node) else node

  return jax.tree.map(convert, tree, is_leaf=lambda node: isinstance(node, dict))


def _check_single(block: Any, axes: int, name: str) -> None:
  """Raises a ValueError if kernels have more axes than those of one network's convolutions."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(block):
    if re.search(r"conv\d*'\]\['kernel'\]$", jax.tree_util.keystr(path)) and jnp.ndim(leaf) > axes:
      raise ValueError(
        f"a convolution's kernel of shape {jnp.shape(leaf)}: expected at most {axes} axes; "
        f"variables of several seeds are converted by jax.vmap(models.{name})(variables)"
      )
