"""The network of a run, opened to be measured after its training."""

import dataclasses
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import tqdm
from flax.errors import FlaxError

from resnet_jax.data.dataset import Split
from resnet_jax.errors import UserError
from resnet_jax.evaluation.protocols import Protocol, make_passes, resolve
from resnet_jax.evaluation.scores import Scores, score_split
from resnet_jax.run.workdir import read_config
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import Config, with_data_dir
from resnet_jax.training.reestimation import Reestimation, read_reestimation
from resnet_jax.training.restore import restore_variables


@dataclasses.dataclass(frozen=True)
class Member:
  """One network, alone or of an ensemble, with all that says which it is.

  Attributes:
    run: The run.
    workdir: Its directory.
    checkpoint: What was asked for: last, best or a step.
    step: The step that this is.
    average: Whether the weights are their moving average.
    reestimation: How the batch statistics were re-estimated, or None.
    split: The examples.
    protocol: What of them is shown, with everything filled in.
    variables: `params` and `batch_stats`, replicated.
  """

  run: Run
  workdir: pathlib.Path
  checkpoint: str
  step: int
  average: bool
  reestimation: Reestimation | None
  split: Split
  protocol: Protocol
  variables: Any

  def score(self) -> Scores:
    """The scores of all examples, with a progress bar on a terminal."""
    config = self.run.config
    passes = make_passes(
      self.protocol,
      self.split,
      config.data.streaming,
      self.run.model,
      config.evaluation_batch_size,
    )
    bar = tqdm.tqdm(
      total=len(passes) * self.split.size,
      unit=" images",
      unit_scale=True,
      dynamic_ncols=True,
      leave=False,
      disable=not sys.stderr.isatty(),
    )
    with bar:
      return score_split(passes, self.variables, self.run.key, self.run.parallelize, bar.update)


def open_member(
  workdir: pathlib.Path,
  checkpoint: str,
  average: bool,
  split: str,
  protocol: Protocol,
  data_dir: str | None = None,
) -> Member:
  """Opens a run to measure it; nothing in its directory changes.

  Args:
    workdir: The run's directory.
    checkpoint: last, best or a step.
    average: Whether to take the moving average of the weights.
    split: validation or test.
    protocol: What is to be shown.
    data_dir: Where the data lies now; None for where the config has it.

  Raises:
    UserError: There is no such run, checkpoint, average or split; or it cannot be tested so.
  """
  config = with_data_dir(read_config(workdir, Config), data_dir)
  run = build_run(config, trains=False)
  splits = run.dataset.splits
  if split not in splits:
    raise UserError(f"{run.dataset.name} has no {split} split here: {', '.join(splits)}")
  protocol = resolve(protocol, run.dataset, splits[split], config.data.streaming)
  step, variables = restore_variables(run, workdir, checkpoint, average)
  _check_crop(run, protocol, variables)
  reestimation = read_reestimation(workdir, step)
  return Member(
    run, workdir, checkpoint, step, average, reestimation, splits[split], protocol, variables
  )


def _check_crop(run: Run, protocol: Protocol, variables: Any) -> None:
  """Raises a UserError for a view of a size that the network cannot see."""
  crop = protocol.crop
  if crop is None:
    return
  images = jax.ShapeDtypeStruct((1, crop, crop, run.dataset.image_shape[-1]), jnp.float32)
  try:
    jax.eval_shape(run.model.apply, variables, images)
  except (ValueError, TypeError, FlaxError) as error:
    raise UserError(
      f"--crop {crop}: views of this size do not fit the network ({str(error).splitlines()[0]}): "
      "choose another, or that of the training"
    ) from None
