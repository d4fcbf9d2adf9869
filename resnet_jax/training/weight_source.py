"""Where weights lie that a run can start from: a run's checkpoints, or a directory of weights.

Weights are read as one dictionary from names, "params/head/kernel", to arrays on the host, in the
layout of checkpoints. Another format of weights is another way to fill it, chosen in `_read`; what
a run does with them (`initial_weights.py`) stays.
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
from resnet_jax.models import Network
from resnet_jax.run.arrays import Layout, layout
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.chosen_checkpoint import read_chosen
from resnet_jax.run.workdir import read_config
from resnet_jax.training.config import Config
from resnet_jax.weights.directory import (
  WeightsInfo,
  is_weights_directory,
  load_weights,
  read_info,
  read_weights_directory,
)
from resnet_jax.weights.plain_arrays import flat, nested

T = TypeVar("T")

_COLLECTIONS = ("params", "batch_stats")
# What changes the function of a network, and no shape of its variables.
_UNSEEN = (
  "stride_in",
  "pool_padding",
  "conv_padding",
  "bn_epsilon",
  "activation",
  "order",
  "transition",
)


def split_source(source: str) -> tuple[pathlib.Path, str]:
  """A config's `init_from` as a directory and last, best or the number of a step.

  A directory's own name may have colons: only a last part of these three kinds is none of it.
  """
  found = re.fullmatch(r"(.+?)(?::(last|best|[0-9]+))?", source)
  if not found:
    raise UserError(f"init_from={source!r} names no directory: give DIR, DIR:best or DIR:STEP")
  return pathlib.Path(found[1]), found[2] or "last"


def read_network(source: str) -> tuple[str, Network, dict[str, Any]]:
  """A network and its variables.

  Args:
    source: As a config's `init_from`.

  Returns:
    What they are called; the network; and its variables on the host, scanned or not.

  Raises:
    UserError: There are none, or they are damaged.
  """
  directory, _ = split_source(source)
  if is_weights_directory(directory):
    model, variables, info = load_weights(_whole(source, directory))
    return _called(directory, info), model, variables
  where, arrays = read_weights(source)
  # A config may leave the number of classes to the data.
  head = arrays.get("params/head/bias")
  more = {} if head is None else {"num_classes": len(head)}
  return where, read_config(directory, Config).model.create(**more), nested(arrays)


def unseen_differences(source: str, model: Network) -> str | None:
  """In what a network is another function than converted weights were trained as, in words.

  Args:
    source: A config's `init_from`.
    model: The network that shall start from it, which has variables of the same shapes.

  Returns:
    A line that says what to do, or None: nothing differs, or the source is a run.
  """
  directory, _ = split_source(source)
  if not is_weights_directory(directory):
    return None
  theirs = read_info(directory).create()
  differing = {
    name: (_setting(model, name), _setting(theirs, name))
    for name in _UNSEEN
    if _setting(model, name) != _setting(theirs, name)
  }
  if not differing:
    return None
  here = ", ".join(f"{name}={ours!r}" for name, (ours, _) in differing.items())
  fields = " ".join(f"--config.model.{name} {_words(of)}" for name, (_, of) in differing.items())
  return f"this network has {here}, unlike that of the weights; as theirs: {fields}"


def _setting(model: Network, name: str) -> Any:
  value = getattr(model, name, None)
  return 1e-5 if name == "bn_epsilon" and value is None else value


def _words(value: Any) -> str:
  return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_layout(source: str) -> tuple[str, Layout]:
  """What weights there are, without reading them; with several processes all have to call it.

  Args:
    source: A config's `init_from`.

  Returns:
    What they are called, "step 123 of runs/a" or "weights/a (torchvision resnet18)", and the shape
    and dtype of each by its name.

  Raises:
    UserError: There are none, or they are damaged.
  """
  directory, _ = split_source(source)
  if is_weights_directory(directory):
    where, arrays = _read_directory(source, directory)
    return where, layout(arrays)
  return _read(source, _variables_layout)


def read_weights(source: str) -> tuple[str, dict[str, np.ndarray]]:
  """The weights themselves, once their digests are right; otherwise as `read_layout`."""
  directory, _ = split_source(source)
  if is_weights_directory(directory):
    return _read_directory(source, directory)
  return _read(source, _variables)


def _read_directory(source: str, directory: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
  try:
    with processes.together():
      info, arrays = read_weights_directory(_whole(source, directory))
  except UserError as error:
    raise UserError(f"init_from={source}: {error}") from None
  return _called(directory, info), arrays


def _whole(source: str, directory: pathlib.Path) -> pathlib.Path:
  """The directory; raises a UserError where a step is asked of it."""
  if str(directory) != str(pathlib.Path(source)):
    raise UserError(f"{directory} holds converted weights, no steps: leave out what follows it")
  return directory


def _called(directory: pathlib.Path, info: WeightsInfo) -> str:
  return f"{directory} ({info.source} {info.model.name})"


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
  like = nested(
    {
      name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=devices.replicated())
      for name, (shape, dtype) in _variables_layout(checkpoints, step).items()
    }
  )
  # On the host: what they are put together with lies on the devices of one process alone.
  return flat(jax.device_get(checkpoints.restore_variables(step, like)))
