"""Parameters by name, and patterns of names.

A parameter's name is its path, "stage1/block1/conv1/kernel"; * in a pattern stands for any text,
slashes included. Where blocks are scanned, one array holds the parameters of several blocks: it has
the names that they have unrolled, so that a pattern means the same with `scan` and without.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import jax

from resnet_jax.errors import UserError
from resnet_jax.models.layouts import block_names, is_stage

_HINTS = 3


def parameter_names(params: Any) -> list[tuple[str, ...]]:
  """The names of each parameter, in the order of `jax.tree.leaves`.

  Args:
    params: Nested dictionaries of arrays, or of their shapes.

  Returns:
    One name for each leaf; as many as its first axis is long for one of scanned blocks.
  """
  return _names(params, ("",))


def is_stacked(names: tuple[str, ...]) -> bool:
  """Whether a parameter with these names holds those of several blocks along its first axis."""
  return len(names) > 1


def matching(params: Any, patterns: Sequence[str]) -> Any:
  """Which parameters fit any of the patterns.

  Args:
    params: Nested dictionaries of arrays, or of their shapes.
    patterns: As `fnmatch.fnmatchcase` takes them.

  Returns:
    The same nest of bools, for example as a mask for optax.

  Raises:
    ValueError: The patterns tell scanned blocks apart, which are one parameter.
  """
  chosen_leaves = []
  for names in parameter_names(params):
    chosen = {fits(name, patterns) for name in names}
    if len(chosen) > 1:
      raise ValueError(
        f"some of {names[0]} to {names[-1]} fit and others do not, but scanned blocks are one "
        "parameter: let the patterns fit all of them, or leave out model.scan"
      )
    chosen_leaves.append(chosen.pop())
  return jax.tree.unflatten(jax.tree.structure(params), chosen_leaves)


def check_patterns(params: Any, patterns: Sequence[str], field: str) -> None:
  """Checks patterns before any work is done.

  Args:
    params: Nested dictionaries of arrays, or of their shapes.
    patterns: As `fnmatch.fnmatchcase` takes them.
    field: Name of the config's field, for the message.

  Raises:
    UserError: A pattern fits no parameter, or they tell scanned blocks apart.
  """
  require_fits([name for names in parameter_names(params) for name in names], patterns, field)
  try:
    matching(params, patterns)
  except ValueError as error:
    raise UserError(f"{field}={tuple(patterns)}: {error}") from None


def require_fits(names: Sequence[str], patterns: Sequence[str], field: str) -> None:
  """Raises a UserError for a pattern of a config's field that none of the names fits."""
  for pattern in patterns:
    if not any(fits(name, (pattern,)) for name in names):
      near = difflib.get_close_matches(pattern, names, n=_HINTS, cutoff=0.0)
      raise UserError(
        f"{field}: no parameter fits {pattern!r}; the nearest are {', '.join(sorted(near))}"
      )


def fits(name: str, patterns: Sequence[str]) -> bool:
  """Whether a name fits any of the patterns."""
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _names(node: Any, paths: tuple[str, ...]) -> list[tuple[str, ...]]:
  """The names of the leaves below a node that has these paths."""
  if not isinstance(node, dict):
    leaves = jax.tree_util.tree_leaves_with_path(node)
    ends = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return [tuple(_join(path, end) for path in paths) for end in ends]
  found: list[tuple[str, ...]] = []
  for key in sorted(node):  # the order in which JAX takes dictionaries apart
    steps = [str(key)]
    if key == "blocks" and is_stage(node) and (blocks := jax.tree.leaves(node[key])):
      steps = block_names(blocks[0].shape[0])
    found += _names(node[key], tuple(_join(path, step) for path in paths for step in steps))
  return found


def _join(path: str, step: str) -> str:
  return f"{path}/{step}" if path and step else path or step
