"""The command `reestimate-bn`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import (
  add_checkpoint,
  add_command,
  directory,
  location,
  positive,
)
from resnet_jax.commands.process import configure_jax


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "reestimate-bn",
    execute,
    "replace a run's moving averages in batch norm by exact means over training examples",
    "The result is a run of its own, which evaluate and init_from take like any other; the run "
    "itself is only read.",
  )
  parser.add_argument("--workdir", metavar="DIR", type=location, required=True)
  add_checkpoint(parser)
  parser.add_argument(
    "--examples",
    metavar="N",
    type=positive,
    required=True,
    help="how many training examples, augmented as in training; rounded up to whole batches",
  )
  parser.add_argument(
    "--output", metavar="NEW_DIR", type=directory, required=True, help="the new run's directory"
  )
  parser.add_argument("--data-dir", metavar="DIR", help="where the data lies now")


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  configure_jax()
  from resnet_jax.run.environment import record_environment
  from resnet_jax.run.location import open_location
  from resnet_jax.run.workdir import read_config
  from resnet_jax.training.build import build_run
  from resnet_jax.training.config import Config, with_data_dir
  from resnet_jax.training.reestimation import reestimate_run

  run = open_location(options.workdir)
  run.fetch(exists=True)
  config = with_data_dir(read_config(run.path, Config), options.data_dir)
  done = reestimate_run(
    build_run(config), run.path, options.checkpoint, options.examples, options.output
  )
  record_environment(options.output)
  print(
    f"{options.output}: step {done.step} of {done.workdir} with batch statistics of "
    f"{done.examples} training examples, in batches of {done.batch_size}"
  )
  return 0
