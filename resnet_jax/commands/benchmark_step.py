"""The command `benchmark step`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, add_config, only_fields, positive
from resnet_jax.commands.process import configure_jax

_DESCRIPTION = """\
Times the compiled training step alone, and within a run that records metrics and saves checkpoints,
in alternating turns. Fields of the config are replaced as in train.
"""

_EPILOG = """\
Nothing else should run on the machine.

  resnet-jax benchmark step --config cifar10:resnet20 --config.data.dataset=synthetic
"""


def add(parts: Any) -> None:
  """Adds its parser."""
  sub = add_benchmark(
    parts, "step", execute, "the training step, alone and within a run", _DESCRIPTION, _EPILOG
  )
  add_config(sub)
  for name, default, what in (
    ("--steps", 100, "steps of a turn"),
    ("--rounds", 5, "turns of each side"),
    ("--log-every", 10, "steps between two records"),
    ("--save-every", 50, "steps between two checkpoints"),
  ):
    sub.add_argument(
      name, type=positive, metavar="N", default=default, help=f"{what}; default: {default}"
    )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  configure_jax()
  import contextlib
  import json
  import sys

  from resnet_jax.benchmarks.step import StepBenchmark, run_step_benchmark
  from resnet_jax.run.config import load_config, override_config
  from resnet_jax.training.config import Config

  config = override_config(load_config(options.config, Config), rest, "resnet-jax benchmark step")
  benchmark = StepBenchmark(
    config, options.steps, options.rounds, options.log_every, options.save_every
  )

  def say(line: str) -> None:
    if not options.json_only:
      print(line, file=stdout, flush=True)

  stdout = sys.stdout
  with contextlib.redirect_stdout(sys.stderr):  # where the runs print their progress
    result = run_step_benchmark(benchmark, say)
  print(json.dumps(result))
  return 0
