"""The state of a run at its beginning, or from a checkpoint.

A checkpoint holds the layout of a network whose blocks are not scanned, whatever the run's is. A
run with `model.scan` converts when it restores and when it saves.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from resnet_jax import devices, models, processes
from resnet_jax.errors import UserError
from resnet_jax.run.checkpoint_folder import CheckpointFolder
from resnet_jax.run.chosen_checkpoint import read_chosen
from resnet_jax.training.build import Run
from resnet_jax.training.initial_weights import check_initial_weights, read_initial_weights
from resnet_jax.training.state import TrainState, create_state, state_of_variables
from resnet_jax.training.weight_differences import network_differences, preprocessing_differences
from resnet_jax.training.weight_source import split_source

T = TypeVar("T")


def initial_state(run: Run) -> TrainState:
  """The state before the first step, on all devices; the same values with `model.scan` or not.

  With `init_from` its weights are another run's, which a line says; with several processes all have
  to call it then.

  Raises:
    UserError: Those weights are not there, are damaged, or do not fit the network.
  """
  config = run.config
  if config.init_from is None:
    return random_state(run)
  loaded = read_initial_weights(config.init_from, config.reset, abstract_state(run).variables)
  if processes.is_first():
    print("\n".join(_with_differences(run, loaded.words)), flush=True)
  state = _random_stored(run)
  # The optimizer's state need not know of them: whatever the weights, ours begin at zero.
  variables = loaded.replace_in(state.variables)
  average = jax.tree.map(np.array, variables) if config.ema_decay is not None else {}
  return devices.replicate(from_stored(run, state.replace(**variables, average=average)))


def random_state(run: Run) -> TrainState:
  """`initial_state` if all weights were random, whatever `init_from` says."""
  return devices.replicate(from_stored(run, _random_stored(run)))


def from_stored(run: Run, state: T) -> T:
  """The state, or variables, that the run computes with, from the layout of its checkpoints."""
  return models.to_scanned(state, run.model.transition) if _scans(run) else state


def to_stored(run: Run, state: TrainState) -> TrainState:
  """The layout of the run's checkpoints, from the state that it computes with."""
  # Thousands of slices of arrays on a device take seconds, views of them on the host do not.
  if _scans(run):
    return devices.replicate(models.to_unrolled(jax.device_get(state)))
  return devices.as_global(state)


def abstract_state(run: Run) -> TrainState:
  """Returns shapes, dtypes and shardings of the state in the layout of checkpoints."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.replicated()),
    jax.eval_shape(models.to_unrolled, state_shapes(run)) if _scans(run) else state_shapes(run),
  )


def state_shapes(run: Run) -> TrainState:
  """Returns shapes and dtypes of the state in the layout of the run."""
  return jax.eval_shape(_first_state(run), run.variables)


def require_resumable(run: Run, workdir: pathlib.Path) -> None:
  """Raises a UserError if the run in a directory is already longer than this one shall get."""
  folder = workdir / "checkpoints"
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder} is not a directory: choose another --workdir")
  last = max(CheckpointFolder(folder).steps(), default=0)
  if last > run.steps:
    raise UserError(
      f"length={run.config.length!r} is {run.steps} steps, but the run in {workdir} has done "
      f"{last}: give a later end, or another --workdir"
    )


def require_initial_weights(run: Run, workdir: pathlib.Path) -> str | None:
  """Makes sure, before any long work, that the weights which a run starts from fit its network.

  With several processes all have to call it.

  Args:
    run: The run.
    workdir: Its directory. If it has a checkpoint the run resumes, and needs no other one's.

  Returns:
    Where the weights are from, and what starts at random; None if `init_from` plays no part.

  Raises:
    UserError: They are not there, are damaged, or do not fit the network.
  """
  config = run.config
  if config.init_from is None:
    return None
  source, _ = split_source(config.init_from)
  with processes.together():
    if source.resolve() == workdir.resolve():
      raise UserError(f"init_from={config.init_from} is the --workdir itself: choose another one")
  if processes.from_first(bool(CheckpointFolder(workdir / "checkpoints").steps())):
    return None
  words = check_initial_weights(config.init_from, config.reset, abstract_state(run).variables)
  return "\n".join(_with_differences(run, words))


def _with_differences(run: Run, words: str) -> list[str]:
  """Where a run's first weights are from; and in what network and pictures are unlike theirs."""
  source, data = run.config.init_from or "", run.config.data
  decoded = run.dataset.preprocessing.resize is not None
  lines = [network_differences(source, run.model), preprocessing_differences(source, data, decoded)]
  return [words, *(line for line in lines if line is not None)]


def restore_variables(
  run: Run, workdir: pathlib.Path, checkpoint: str, average: bool = False
) -> tuple[int, dict[str, Any]]:
  """The network's variables from a checkpoint.

  Args:
    run: The run that was saved.
    workdir: Its directory.
    checkpoint: last, best (by the run's `checkpoint.metric`), or a step.
    average: Whether their moving average instead.

  Returns:
    The step, and `params` and `batch_stats` on all devices.

  Raises:
    UserError: There is no such checkpoint, it is damaged, or it is of another network; the run has
      no average.
  """
  if average and run.config.ema_decay is None:
    raise UserError(
      f"the run in {workdir} has no average weights, for it was trained without ema_decay: leave "
      "out --ema"
    )
  state = abstract_state(run)
  like = {"average": state.average} if average else state.variables
  step, found = read_chosen(
    workdir,
    checkpoint,
    run.config.checkpoint.metric,
    lambda checkpoints, step: checkpoints.restore_variables(step, like),
  )
  return step, from_stored(run, found["average"] if average else found)


def _scans(run: Run) -> bool:
  return getattr(run.model, "scan", False)


def _random_stored(run: Run) -> TrainState:
  """Draws the state in the layout of checkpoints, on one device of each process."""
  if not _scans(run):
    return jax.jit(_first_state(run))(run.init(run.key))
  # Scanned networks have many blocks, which would take long to compile unrolled.
  return create_state(
    run.model.clone(scan=False),
    run.optimizer,
    run.key,
    run.dataset.image_shape,
    run.config.ema_decay is not None,
  )


def _first_state(run: Run) -> Callable[[Any], TrainState]:
  return functools.partial(
    state_of_variables, optimizer=run.optimizer, averages=run.config.ema_decay is not None
  )
