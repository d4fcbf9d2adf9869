"""Checkpoints of a run: everything that it is, in one atomic unit, through Orbax."""

import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from resnet_jax.errors import UserError


class Checkpoints:
  """The checkpoints of one run: the last few, and the best by validation accuracy."""

  def __init__(self, workdir: pathlib.Path, keep: int = 2, read_only: bool = False):
    """Opens `workdir`/checkpoints.

    Args:
      workdir: The run's directory.
      keep: How many of the latest are kept, beside the best.
      read_only: Never write or delete.
    """
    self._directory = directory = (workdir / "checkpoints").resolve()
    if not read_only:
      for unfinished in directory.glob("*.orbax-checkpoint-tmp"):  # of saves that a kill cut short
        shutil.rmtree(unfinished)
    policy = policies.AnyPreservationPolicy(
      [
        policies.LatestN(n=keep),
        policies.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False),
      ]
    )
    self._manager = ocp.CheckpointManager(
      directory,
      item_names=("state", "run"),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=_accuracy,  # else Orbax writes no metrics, and the policy sees none on reopening
        read_only=read_only,
        create=not read_only,
      ),
    )

  def steps(self) -> list[int]:
    """Steps that can be restored, ascending."""
    return sorted(self._manager.all_steps())

  def last(self) -> int | None:
    """The latest step, or None."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """The step of the highest validation accuracy, the later of equals; None if none has one."""
    metrics = {step: self._manager.metrics(step) for step in self.steps()}
    scored = [(_accuracy(values), step) for step, values in metrics.items() if values]
    return max(scored)[1] if scored else None

  def save(
    self, step: int, state: Any, run: dict[str, Any], metrics: dict[str, float] | None
  ) -> None:
    """Saves in the background; returns once the arrays have been copied.

    Args:
      step: Number of steps done.
      state: Tree of replicated arrays.
      run: What JSON can hold of the rest.
      metrics: The validation metrics of this step, with `accuracy`, or None.
    """
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)),
      metrics=metrics,
    )

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """The state and the rest of a step.

    Args:
      step: One of `steps()`.
      like: A tree of the state's structure, shapes, dtypes and shardings (arrays or
        `jax.ShapeDtypeStruct`).

    Raises:
      UserError: There is no such step, or it is damaged.
    """
    if step not in self.steps():
      raise UserError(f"there is no checkpoint of step {step}; there are {self.steps() or 'none'}")
    arguments = ocp.args.Composite(
      state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
      run=ocp.args.JsonRestore(),
    )
    try:
      restored = self._manager.restore(step, args=arguments)
      return restored["state"], restored["run"]
    except Exception as error:  # Orbax has no type of its own for what damage makes it raise.
      raise UserError(
        f"checkpoint {self._directory / str(step)} cannot be read ({type(error).__name__}): delete "
        f"it to go on from the one before; there are {self.steps()}"
      ) from error

  def wait(self) -> None:
    """Until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and frees what the manager holds."""
    self._manager.close()


def _accuracy(metrics: Any) -> float:
  return float(metrics["accuracy"])
