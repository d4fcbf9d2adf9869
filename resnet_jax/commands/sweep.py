"""The command `sweep`."""

import argparse
import contextlib
import sys
from typing import Any

from resnet_jax.commands.arguments import add_command, directory, only_fields, positive
from resnet_jax.commands.process import EXIT_PREEMPTED, Stops, keep_to_cpu

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
  resnet-jax sweep FILE --workdir runs/rates --launcher slurm \\
    --sbatch="--partition=gpu --gres=gpu:1 --time=8:00:00"      # a job array; watches it

All runs are checked before the first starts. Killed, or with runs that failed: the same command
goes on; what is finished is not done again. Status: 0 all finished, 1 some failed, 2 a mistake of
yours, 75 stopped by SIGINT or SIGTERM and saved.
"""

# Which options belong to which launcher.
_OPTIONS = {
  "local": ("parallel", "retries"),
  "commands": ("tpu", "zone"),
  "slurm": ("parallel", "retries", "processes", "sbatch", "detach"),
}


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
    help="a Python file with sweep(), or a built-in sweep (digits, cifar10_table6)",
  )
  parser.add_argument(
    "--workdir", metavar="DIR", type=directory, required=True, help="the sweep's directory"
  )
  parser.add_argument(
    "--launcher",
    choices=tuple(_OPTIONS),
    default="local",
    help="run them on this machine, print a command for each, for any scheduler, or submit them "
    "to Slurm",
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="check all, print what would be run, write nothing"
  )
  several = parser.add_argument_group("local and slurm")
  several.add_argument(
    "--parallel",
    metavar="K",
    type=positive,
    help="runs at a time. local divides GPUs or cores among them; default: one a GPU, or one. "
    "slurm: default: as many as it likes",
  )
  several.add_argument(
    "--retries",
    metavar="N",
    type=_count,
    help="how often a run that was pre-empted or failed is started again; default: 2",
  )
  commands_group = parser.add_argument_group("commands")
  commands_group.add_argument(
    "--tpu", metavar="NAME", help="print gcloud commands for all hosts of this TPU VM"
  )
  commands_group.add_argument("--zone", metavar="Z", help="its zone")
  slurm = parser.add_argument_group("slurm")
  slurm.add_argument(
    "--sbatch", metavar="OPTIONS", help="further options of sbatch, for every run; write --sbatch=…"
  )
  slurm.add_argument(
    "--processes", metavar="N", type=positive, help="train each run with N processes; default: 1"
  )
  slurm.add_argument("--detach", action="store_const", const=True, help="submit, and do not watch")


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  _check(options)
  keep_to_cpu()
  from resnet_jax.launch.outcome import write_outcome
  from resnet_jax.launch.sweep import Sweep
  from resnet_jax.run.lock import locked

  stops = Stops()
  launcher = _launcher(options, stops)
  prints = options.launcher == "commands"
  sweep = Sweep(options.file, options.workdir, rest, needs_data=not prints)
  if options.dry_run:
    print("\n".join(launcher.lines(sweep.jobs)))
    return 0
  with locked(options.workdir):
    sweep.claim()
    with stops:
      ending = launcher.launch(sweep.jobs)
    summary = write_outcome(options.workdir, sweep.jobs, ending.failures)
  if not prints:
    print(f"\n{summary}")
  elif any(job.workdir.exists() for job in sweep.jobs):
    print(summary, file=sys.stderr)  # Standard output is the commands alone.
  if ending.interrupted:
    print("resnet-jax: stopped; run the same command to go on", file=sys.stderr)
    return EXIT_PREEMPTED
  return 1 if ending.failures else 0


def _check(options: argparse.Namespace) -> None:
  """Exits if options are given that belong to another launcher."""
  for name in {name for names in _OPTIONS.values() for name in names}:
    if getattr(options, name) is not None and name not in _OPTIONS[options.launcher]:
      options.parser.error(f"--{name} does not belong to --launcher {options.launcher}")
  if options.zone and not options.tpu:
    options.parser.error("--zone belongs to --tpu")


def _launcher(options: argparse.Namespace, stops: Stops) -> Any:
  if options.launcher == "commands":
    from resnet_jax.launch.commands import Commands

    return Commands(options.tpu, options.zone)
  retries = 2 if options.retries is None else options.retries
  if options.launcher == "slurm":
    from resnet_jax.launch.slurm import Slurm
    from resnet_jax.launch.slurm_script import user_options

    return Slurm(
      options.workdir,
      options.parallel,
      retries,
      options.processes or 1,
      user_options(options.sbatch or ""),
      bool(options.detach),
      stops,
    )
  from resnet_jax.launch.local import Local
  from resnet_jax.launch.slots import split_machine

  return Local(split_machine(options.parallel), retries, stops)


def _count(text: str) -> int:
  with contextlib.suppress(ValueError):
    if int(text) >= 0:
      return int(text)
  raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
