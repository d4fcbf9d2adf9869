"""Where weights lie that a run can start from: the checkpoints of another run.

Weights are read as one dictionary from names, "params/head/kernel", to arrays on the host, in the
layout of checkpoints. Another format of weights is another way to fill it, chosen in `read_layout`
and `read_weights`; what a run does with them (`initial_weights.py`) stays.
"""

import pathlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import devices, processes
from resnet_jax.errors import UserError
from resnet_jax.run.arrays import Layout
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.chosen_checkpoint import read_chosen
from resnet_jax.run.workdir import read_config
from resnet_jax.training.config import Config

T = TypeVar("T")

_COLLECTIONS = ("params", "batch_stats")


def split_source(source: str) -> tuple[pathlib.Path, str]:
  """A config's `init_from` as a directory and last, best or the number of a step.

  A directory's own name may have colons: only a last part of these three kinds is none of it.
  """
  found = re.fullmatch(r"(.+?)(?::(last|best|[0-9]+))?", source)
  if not found:
    raise UserError(f"init_from={source!r} names no directory: give DIR, DIR:best or DIR:STEP")
  return pathlib.Path(found[1]), found[2] or "last"


def read_layout(source: str) -> tuple[str, Layout]:
  """What weights there are, without reading them; with several processes all have to call it.

  Args:
    source: A config's `init_from`.

  Returns:
    What they are called, "step 123 of runs/a", and the shape and dtype of each by its name.

  Raises:
    UserError: There are none, or they are damaged.
  """
  return _read(source, _variables_layout)


def read_weights(source: str) -> tuple[str, dict[str, np.ndarray]]:
  """The weights themselves, once their digests are right; otherwise as `read_layout`."""
  return _read(source, _variables)


def _read(source: str, read: Callable[[Checkpoints, int], T]) -> tuple[str, T]:
  directory, checkpoint = split_source(source)
  try:
    with processes.together():
      metric = read_config(directory, Config).checkpoint.metric
    step, found = read_chosen(directory, checkpoint, metric, read)
  except UserError as error:
    raise UserError(f"init_from={source}: {error}") from None
  return f"step {step} of {directory}", found


def _variables_layout(checkpoints: Checkpoints, step: int) -> Layout:
  stored = checkpoints.metadata(step)
  return {name: array for name, array in stored.items() if name.split("/")[0] in _COLLECTIONS}


def _variables(checkpoints: Checkpoints, step: int) -> dict[str, np.ndarray]:
  like: dict[str, Any] = {}
  for name, (shape, dtype) in _variables_layout(checkpoints, step).items():
    *path, last = name.split("/")
    node = like
    for key in path:
      node = node.setdefault(key, {})
    node[last] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=devices.replicated())
  # On the host: what they are put together with lies on the devices of one process alone.
  variables = jax.device_get(checkpoints.restore_variables(step, like))
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
