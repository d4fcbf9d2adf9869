"""Where weights lie that a run can start from: a run's checkpoints, or a directory of weights.

Weights are read as one dictionary from names, "params/head/kernel", to arrays on the host, in the
layout of checkpoints. Another format of weights is another way to fill it, chosen in `_read`; what
a run does with them (`initial_weights.py`) stays.
"""

import contextlib
import functools
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import devices, processes
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig, Network
from resnet_jax.run.arrays import Layout, layout
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.chosen_checkpoint import read_chosen
from resnet_jax.run.workdir import read_config
from resnet_jax.training.config import Config
from resnet_jax.training.stored_preprocessing import find_preprocessing
from resnet_jax.weights.directory import (
  WeightsInfo,
  is_weights_directory,
  load_weights,
  read_weights_directory,
)
from resnet_jax.weights.plain_arrays import flat, nested

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


def read_network(
  source: str, average: bool = False
) -> tuple[str, Network, dict[str, Any], WeightsInfo]:
  """A network, its variables, and what is known of them; of a run, no data set is needed.

  Args:
    source: As a config's `init_from`.
    average: Whether the moving average of a run's variables.

  Returns:
    What they are called; the network; its variables on the host, as the network has them; and what
    is known of them.

  Raises:
    UserError: There are none, or they are damaged.
  """
  directory, _ = split_source(source)
  if is_weights_directory(directory):
    if average:
      raise UserError(
        f"{directory} holds converted weights, which have no average: leave out --ema"
      )
    model, variables, info = load_weights(_whole(source, directory))
    return _called(directory, info), model, variables, info
  where, arrays = _read(source, functools.partial(_variables, average=average))
  if not arrays:
    raise UserError(
      f"the run in {directory} has no average weights, for it was trained without ema_decay: leave "
      "out --ema"
    )
  # A config may leave the number of classes to the data.
  head = arrays.get("params/head/bias")
  more = {} if head is None else {"num_classes": len(head)}
  # A checkpoint has every block by itself.
  config = read_config(directory, Config).model
  fields = {name: value for name, value in config.overrides.items() if name != "scan"} | more
  where = f"average of {where}" if average else where
  preprocessing, class_names = find_preprocessing(directory)
  info = WeightsInfo(
    ModelConfig(config.name, fields),
    "run",
    where.replace(str(directory), directory.name),
    preprocessing=preprocessing,
    class_names=class_names,
  )
  return where, info.create(), nested(arrays), info


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
  with _naming_init_from(source):
    if is_weights_directory(directory):
      where, arrays = _read_directory(source, directory)
      return where, layout(arrays)
    return _read(source, _variables_layout)


def read_weights(source: str) -> tuple[str, dict[str, np.ndarray]]:
  """The weights themselves, once their digests are right; otherwise as `read_layout`."""
  directory, _ = split_source(source)
  with _naming_init_from(source):
    if is_weights_directory(directory):
      return _read_directory(source, directory)
    return _read(source, _variables)


@contextlib.contextmanager
def _naming_init_from(source: str) -> Iterator[None]:
  try:
    yield
  except UserError as error:
    raise UserError(f"init_from={source}: {error}") from None


def _read_directory(source: str, directory: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
  with processes.together():
    info, arrays = read_weights_directory(_whole(source, directory))
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
  with processes.together():
    metric = read_config(directory, Config).checkpoint.metric
  step, found = read_chosen(directory, checkpoint, metric, read)
  return f"step {step} of {directory}", found


def _variables_layout(checkpoints: Checkpoints, step: int, average: bool = False) -> Layout:
  prefix, stored = "average/" if average else "", checkpoints.metadata(step)
  wanted = tuple(f"{prefix}{collection}/" for collection in _COLLECTIONS)
  return {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(wanted)}


def _variables(checkpoints: Checkpoints, step: int, average: bool = False) -> dict[str, np.ndarray]:
  like = nested(
    {
      name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=devices.replicated())
      for name, (shape, dtype) in _variables_layout(checkpoints, step, average).items()
    }
  )
  if not like:
    return {}
  found = checkpoints.restore_variables(step, {"average": like} if average else like)
  # On the host: what they are put together with lies on the devices of one process alone.
  return flat(jax.device_get(found["average"] if average else found))
