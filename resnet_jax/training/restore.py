"""The state of a run at its beginning, or from a checkpoint.

A checkpoint holds the layout of a network whose blocks are not scanned, whatever the run's is. A
run with `model.scan` converts when it restores and when it saves.
"""

import contextlib
import functools
import pathlib
from typing import Any, TypeVar

import jax

from resnet_jax import devices, models
from resnet_jax.errors import UserError
from resnet_jax.run.checkpoint_folder import NoCheckpointError
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training.build import Run
from resnet_jax.training.state import TrainState, create_state

T = TypeVar("T")

_ATTEMPTS = 5


def initial_state(run: Run) -> TrainState:
  """The state before the first step, on all devices; the same values with `model.scan` or not."""
  create = _create(run)
  # Unrolled blocks take long to compile together; where they are scanned there are many.
  state = create(run.key) if _scans(run) else jax.jit(create)(run.key)
  return devices.replicate(from_stored(run, state))


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
  """Shapes, dtypes and shardings of the state as checkpoints hold it."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.replicated()),
    jax.eval_shape(_create(run), run.key),
  )


def require_resumable(run: Run, workdir: pathlib.Path) -> None:
  """Raises a UserError if the run in a directory is already longer than this one shall get."""
  folder = workdir / "checkpoints"
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder} is not a directory: choose another --workdir")
  if not folder.exists():
    return
  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    last = checkpoints.last() or 0
  if last > run.steps:
    raise UserError(
      f"length={run.config.length!r} is {run.steps} steps, but the run in {workdir} has done "
      f"{last}: give a later end, or another --workdir"
    )


def restore_variables(
  run: Run, workdir: pathlib.Path, checkpoint: str
) -> tuple[int, dict[str, Any]]:
  """The network's variables from a checkpoint.

  Args:
    run: The run that was saved.
    workdir: Its directory.
    checkpoint: last, best (by the run's validation metric), or a step.

  Returns:
    The step, and `params` and `batch_stats` on all devices.

  Raises:
    UserError: There is no such checkpoint, it is damaged, or it is of another network.
  """
  checkpoints = Checkpoints(workdir, metric=run.config.checkpoint.metric, read_only=True)
  with contextlib.closing(checkpoints):
    for _ in range(_ATTEMPTS):
      step = _chosen_step(checkpoints, workdir, checkpoint)
      try:
        variables = checkpoints.restore_variables(step, abstract_state(run).variables)
        return step, from_stored(run, variables)
      except NoCheckpointError:
        # A run that is being trained may have deleted it since it was chosen.
        if checkpoint.isdecimal():
          raise
  raise UserError(f"the run in {workdir} saves faster than it can be read: try again")


def _chosen_step(checkpoints: Checkpoints, workdir: pathlib.Path, checkpoint: str) -> int:
  if checkpoint.isdecimal():
    return int(checkpoint)
  if checkpoint not in ("last", "best"):
    raise UserError(f"--checkpoint {checkpoint}: give last, best or the number of a step")
  step = checkpoints.last() if checkpoint == "last" else checkpoints.best()
  if step is None:
    lacks = "checkpoint yet" if checkpoint == "last" else "checkpoint with the validation metric"
    raise UserError(f"{workdir} has no {lacks}")
  return step


def _scans(run: Run) -> bool:
  return getattr(run.model, "scan", False)


def _create(run: Run) -> Any:
  model = run.model.clone(scan=False) if _scans(run) else run.model
  return functools.partial(
    create_state,
    model,
    run.optimizer,
    image_shape=run.dataset.image_shape,
    averages=run.config.ema_decay is not None,
  )
