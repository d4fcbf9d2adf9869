"""Reading one checkpoint of a run that may be training: the last, the best, or a step's."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import TypeVar

from resnet_jax.errors import UserError
from resnet_jax.run.checkpoint_folder import NoCheckpointError
from resnet_jax.run.checkpoints import Checkpoints

T = TypeVar("T")

_ATTEMPTS = 5


def read_chosen(
  workdir: pathlib.Path, checkpoint: str, metric: str, read: Callable[[Checkpoints, int], T]
) -> tuple[int, T]:
  """Reads from a checkpoint; with several processes all have to call it.

  Args:
    workdir: The run's directory.
    checkpoint: last, best, or a step.
    metric: The validation metric that best is by.
    read: What is read: gets the checkpoints and the step. Done again where a run that is being
      trained has deleted the step since it was chosen.

  Returns:
    The step, and what was read.

  Raises:
    UserError: There is no such checkpoint, or it is damaged: no other is taken instead.
  """
  checkpoints = Checkpoints(workdir, metric=metric, read_only=True)
  with contextlib.closing(checkpoints):
    for _ in range(_ATTEMPTS):
      step = _chosen_step(checkpoints, workdir, checkpoint)
      try:
        return step, read(checkpoints, step)
      except NoCheckpointError:
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
