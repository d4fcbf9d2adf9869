"""The command `evaluate`."""

import argparse
import pathlib
import sys
from typing import Any

from resnet_jax.commands.arguments import add_command
from resnet_jax.commands.process import configure_jax
from resnet_jax.errors import UserError


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "evaluate",
    execute,
    "measure a run's network on a split, every example once",
    "The last line is the accuracy.",
  )
  parser.add_argument("--workdir", metavar="DIR", type=pathlib.Path, required=True)
  parser.add_argument(
    "--checkpoint",
    metavar="last|best|STEP",
    default="last",
    help="which weights: the last, the best by the run's checkpoint.metric, or a step's",
  )
  parser.add_argument(
    "--ema",
    action="store_true",
    help="the moving average of the weights instead, of a run with ema_decay",
  )
  parser.add_argument("--split", choices=("validation", "test"), default="validation")
  parser.add_argument("--data-dir", metavar="DIR", help="where the data lies now")


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  configure_jax()
  import dataclasses

  from resnet_jax.evaluation.accuracy import Evaluator
  from resnet_jax.run.lock import locked
  from resnet_jax.run.records import record_once
  from resnet_jax.run.workdir import read_config
  from resnet_jax.training.build import build_run
  from resnet_jax.training.config import Config
  from resnet_jax.training.restore import restore_variables

  config = read_config(options.workdir, Config)
  if options.data_dir:
    config = dataclasses.replace(
      config, data=dataclasses.replace(config.data, data_dir=options.data_dir)
    )
  run = build_run(config, trains=False)
  splits = run.dataset.splits
  if options.split not in splits:
    raise UserError(f"{run.dataset.name} has no {options.split} split here: {', '.join(splits)}")
  step, variables = restore_variables(run, options.workdir, options.checkpoint, options.ema)
  print(
    f"{config.model.name} after step {step} of {options.workdir} on the {options.split} split of "
    f"{run.dataset.name}"
  )
  if options.ema:
    print(f"average weights (ema_decay {config.ema_decay})")
  elif config.ema_decay is not None:
    print("weights as trained, not their average (--ema)")
  evaluator = Evaluator(
    run.model, splits[options.split], config.evaluation_batch_size, run.key, run.parallelize
  )
  values = evaluator(variables)
  for name, value in values.items():
    print(
      f"{name.replace('_', ' ')}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
    )
  if options.split == "test":
    try:
      with locked(options.workdir):
        record_once(options.workdir, step, "test", average=options.ema, **values)
    except UserError as error:
      print(f"not recorded: {error}", file=sys.stderr)
  print(f"{options.split} accuracy: {values['accuracy']:.2%}")
  return 0
