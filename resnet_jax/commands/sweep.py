"""The command `sweep`."""

import argparse
import sys
from typing import Any

from resnet_jax.commands.arguments import add_command, location, only_fields, positive
from resnet_jax.commands.launchers import (
  SEES_THE_SAME,
  add_launchers,
  check_launcher,
  make_launcher,
)
from resnet_jax.commands.process import EXIT_PREEMPTED, Stops, keep_to_cpu
from resnet_jax.errors import UserError

_EPILOG = """\
A sweep file names an experiment and yields how each run differs:

  import itertools
  config = "digits"                     # what train --config takes
  def sweep():
    for rate, seed in itertools.product((0.05, 0.1), range(3)):
      yield {"optimizer.learning_rate": rate, "seed": seed}

  resnet-jax sweep FILE --workdir runs/rates                    # one after another
  resnet-jax sweep FILE --workdir runs/rates --parallel 2       # two at a time
  resnet-jax sweep FILE --workdir runs/rates --launcher commands > jobs.sh
  resnet-jax sweep FILE --workdir gs://BUCKET/rates --launcher skypilot --accelerator v5e-64
  resnet-jax sweep FILE --workdir runs/rates --launcher slurm \\
    --sbatch="--partition=gpu --gres=gpu:1 --time=8:00:00"      # a job array; watches it
  resnet-jax sweep digits_search --workdir runs/search --trials 20   # Optuna chooses each

All runs are checked before the first starts. Killed, or with runs that failed: the same command
goes on; what is finished is not done again. Status: 0 all finished, 1 some failed, 2 a mistake of
yours, 75 stopped by SIGINT or SIGTERM and saved.
"""


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "sweep",
    execute,
    "train many runs that one file describes, and compare them",
    "Each has a numbered\ndirectory. --config.FIELD=VALUE goes to every run.",
    takes_fields=True,
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = _EPILOG
  parser.add_argument("-h", "--help", action="help", help="show this message and exit")
  parser.add_argument(
    "file",
    metavar="FILE",
    help="a Python file with sweep(), or a built-in sweep (digits, cifar10_table6, imagenet_lars); "
    "with --trials, one with suggest(trial) (digits_search)",
  )
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    type=location,
    required=True,
    help="the sweep's directory, or gs://… in a bucket",
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="check all, print what would be run, write nothing"
  )
  parser.add_argument(
    "--trials",
    metavar="N",
    type=positive,
    help="search: FILE has suggest(trial), by which Optuna chooses each run, N altogether",
  )
  add_launchers(parser)


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  check_launcher(options)
  if options.trials is not None:
    from resnet_jax.commands import search

    return search.execute(options, rest)
  keep_to_cpu()
  from resnet_jax.launch.outcome import write_outcome
  from resnet_jax.launch.sweep import Sweep
  from resnet_jax.run.location import open_location

  stops = Stops()
  location = open_location(options.workdir, sweep=True)
  launcher = make_launcher(options, location.path, stops)
  here = options.launcher in SEES_THE_SAME
  try:
    location.fetch()
  except UserError as error:
    if not options.dry_run:
      raise
    print(f"resnet-jax: {error}. Which runs are finished there is not known here", file=sys.stderr)
  sweep = Sweep(options.file, location, rest, needs_data=here)
  if options.dry_run:
    print("\n".join(launcher.lines(sweep.jobs)))
    return 0
  with location.held():
    sweep.claim()
    with stops:
      ending = launcher.launch(sweep.jobs)
    location.fetch()
    summary = write_outcome(location.path, sweep.jobs, ending.failures)
  if here:
    print(f"\n{summary}")
  elif ending.failures or any(job.workdir.exists() for job in sweep.jobs):
    print(summary, file=sys.stderr)  # Standard output is what was started alone.
  if ending.interrupted:
    print("resnet-jax: stopped; run the same command to go on", file=sys.stderr)
    return EXIT_PREEMPTED
  return 1 if ending.failures else 0
