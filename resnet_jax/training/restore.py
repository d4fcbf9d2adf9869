"""The state of a run at its beginning, or from a checkpoint."""

import functools
import pathlib
from typing import Any

import jax

from resnet_jax import devices
from resnet_jax.errors import UserError
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training.build import Run
from resnet_jax.training.state import TrainState, create_state

_ATTEMPTS = 5


def initial_state(run: Run) -> TrainState:
  """The state before the first step, on all devices."""
  return devices.replicate(jax.jit(_create(run))(run.key))


def abstract_state(run: Run) -> TrainState:
  """Shapes, dtypes and shardings of the state."""
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
  checkpoints = Checkpoints(workdir, read_only=True)
  last = checkpoints.last() or 0
  checkpoints.close()
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
    checkpoint: last, best (by validation accuracy), or a step.

  Returns:
    The step, and `params` and `batch_stats` on all devices.

  Raises:
    UserError: There is no such checkpoint.
  """
  for _ in range(_ATTEMPTS):
    checkpoints = Checkpoints(workdir, read_only=True)
    step = _chosen_step(checkpoints, workdir, checkpoint)
    try:
      state, _ = checkpoints.restore(step, abstract_state(run))
      return step, state.variables
    except UserError:
      # A run that is being trained may have replaced it since it was chosen.
      if checkpoint.isdecimal() or (workdir / "checkpoints" / str(step)).exists():
        raise
    finally:
      checkpoints.close()
  raise UserError(f"the run in {workdir} saves faster than it can be read: try again")


def _chosen_step(checkpoints: Checkpoints, workdir: pathlib.Path, checkpoint: str) -> int:
  if checkpoint.isdecimal():
    return int(checkpoint)
  if checkpoint not in ("last", "best"):
    raise UserError(f"--checkpoint {checkpoint}: give last, best or the number of a step")
  step = checkpoints.last() if checkpoint == "last" else checkpoints.best()
  if step is None:
    lacks = "checkpoint yet" if checkpoint == "last" else "checkpoint with a validation accuracy"
    raise UserError(f"{workdir} has no {lacks}")
  return step


def _create(run: Run) -> Any:
  return functools.partial(
    create_state, run.model, run.optimizer, image_shape=run.dataset.image_shape
  )
