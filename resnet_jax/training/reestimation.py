"""A run's network with other batch statistics, as a run of its own."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from resnet_jax import devices
from resnet_jax.errors import UserError
from resnet_jax.evaluation.batch_statistics import reestimate
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.chosen_checkpoint import read_chosen
from resnet_jax.run.config import from_json, to_json
from resnet_jax.run.files import require_free
from resnet_jax.run.workdir import claim, write_json
from resnet_jax.training.build import Run
from resnet_jax.training.restore import abstract_state, from_stored, to_stored
from resnet_jax.training.state import TrainState
from resnet_jax.training.stored_preprocessing import write_preprocessing

_FILE = "batch_statistics.json"


@dataclasses.dataclass(frozen=True)
class Reestimation:
  """How the batch statistics of a run in a directory came about.

  Attributes:
    workdir: Directory of the run whose network it is.
    step: Its step.
    examples: How many training examples, augmented, the statistics are of.
    batch_size: Examples in a batch.
    group: Examples by whose statistics each was normalised; None for the batch.
  """

  workdir: str
  step: int
  examples: int
  batch_size: int
  group: int | None


def reestimate_run(
  run: Run, workdir: pathlib.Path, checkpoint: str, examples: int, output: pathlib.Path
) -> Reestimation:
  """Writes a run that differs from another one's checkpoint in its batch statistics alone.

  The moving average of the weights, if the run has one, gets batch statistics of its own.

  Args:
    run: The run, built to train, so that the devices can share its batch.
    workdir: Its directory, which is only read.
    checkpoint: last, best or a step.
    examples: How many examples of the training stream at least; rounded up to whole batches.
    output: The new directory; absent or empty.

  Raises:
    UserError: The output is in use; there is no such checkpoint; or the network has no batch norm.
    OSError: It could not be written.
  """
  require_free(output)
  config = run.config
  batch_size = config.batch_size // config.accumulate
  batches = -(-examples // batch_size)

  def read(checkpoints: Checkpoints, step: int) -> tuple[TrainState, dict[str, Any]]:
    return checkpoints.restore(step, abstract_state(run))

  step, (stored, rest) = read_chosen(workdir, checkpoint, config.checkpoint.metric, read)
  state = from_stored(run, stored)

  def statistics(variables: Any) -> Any:
    try:
      split = run.dataset.splits["train"]
      found = reestimate(
        run.model, split, variables, batches, batch_size, config.seed, run.key, run.parallelize
      )
    except ValueError as error:
      raise UserError(f"batch statistics of {workdir}: {error}") from None
    return devices.replicate(found)

  state = state.replace(batch_stats=statistics(state.variables))
  if state.average:
    average = {**state.average, "batch_stats": statistics(state.average)}
    state = state.replace(average=average)
  done = Reestimation(str(workdir), step, batches * batch_size, batch_size, config.bn_group)
  output.mkdir(parents=True, exist_ok=True)
  claim(output, config, ())
  write_json(output / _FILE, to_json(done))
  write_preprocessing(output, run.dataset)
  with contextlib.closing(Checkpoints(output)) as checkpoints:
    # The metrics of the checkpoint are of other statistics, and are not passed on.
    checkpoints.save(step, to_stored(run, state), rest, None)
    checkpoints.wait()
  return done


def read_reestimation(workdir: pathlib.Path, step: int) -> Reestimation | None:
  """How a checkpoint's batch statistics were re-estimated; None if they are its training's own."""
  try:
    found = from_json(json.loads((workdir / _FILE).read_text()), Reestimation)
  except FileNotFoundError:
    return None
  # A run that was trained on from there has moving averages again.
  return found if found.step == step else None
