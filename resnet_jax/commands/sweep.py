"""The command `sweep`."""

import argparse
import contextlib
import sys
from typing import Any

from resnet_jax.commands.arguments import (
  add_command,
  check_coordinator,
  directory,
  only_fields,
  positive,
)
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
  resnet-jax sweep FILE --workdir gs://BUCKET/rates --launcher skypilot --accelerator v5e-64
  resnet-jax sweep digits_search --workdir runs/search --trials 20   # Optuna chooses each

All runs are checked before the first starts. Killed, or with runs that failed: the same command
goes on; what is finished is not done again. Status: 0 all finished, 1 some failed, 2 a mistake of
yours, 75 stopped by SIGINT or SIGTERM and saved.
"""

# Which options belong to which launcher.
_OPTIONS = {
  "local": ("parallel", "retries"),
  "commands": ("tpu", "zone", "processes", "coordinator"),
  "skypilot": ("accelerator", "spot", "retries", "setup", "region", "zone"),
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
    help="a Python file with sweep(), or a built-in sweep (digits, cifar10_table6, imagenet_lars); "
    "with --trials, one with suggest(trial) (digits_search)",
  )
  parser.add_argument(
    "--workdir", metavar="DIR", type=directory, required=True, help="the sweep's directory"
  )
  parser.add_argument(
    "--launcher",
    choices=tuple(_OPTIONS),
    default="local",
    help="run them on this machine, print a command for each, for any scheduler, or submit each to "
    "SkyPilot, for slices of TPUs",
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
  local = parser.add_argument_group("local")
  local.add_argument(
    "--parallel",
    metavar="K",
    type=positive,
    help="runs at a time, among which GPUs or cores are divided; default: one a GPU, or one",
  )
  retried = parser.add_argument_group("local and skypilot")
  retried.add_argument(
    "--retries",
    metavar="N",
    type=_count,
    help="how often a run that failed is started again (locally one that was pre-empted too, which "
    "SkyPilot always does); default: 2",
  )
  commands_group = parser.add_argument_group("commands")
  commands_group.add_argument(
    "--tpu", metavar="NAME", help="print gcloud commands for all hosts of this TPU VM"
  )
  commands_group.add_argument(
    "--processes", metavar="N", type=positive, help="print N commands a run, which train together"
  )
  commands_group.add_argument(
    "--coordinator", metavar="HOST:PORT", help="where the first of them listens, as all see it"
  )
  sky = parser.add_argument_group("skypilot", "Each run is a managed job with hosts of its own.")
  sky.add_argument(
    "--accelerator", metavar="NAME", help="what each is trained on: v5e-64, v4-8, H100:8"
  )
  sky.add_argument(
    "--spot", action="store_true", default=None, help="what is cheaper and may be taken away"
  )
  sky.add_argument(
    "--setup",
    metavar="COMMAND",
    help="installs resnet-jax on a host, in a copy of the current directory, which by default is "
    "installed itself",
  )
  sky.add_argument("--region", metavar="R", help="where; default: wherever there is one")
  place = parser.add_argument_group("commands and skypilot")
  place.add_argument("--zone", metavar="Z", help="the zone: of --tpu, or of what SkyPilot starts")


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  _check(options)
  if options.trials is not None:
    from resnet_jax.commands import search

    return search.execute(options, rest)
  keep_to_cpu()
  from resnet_jax.launch.outcome import write_outcome
  from resnet_jax.launch.sweep import Sweep
  from resnet_jax.run.lock import locked

  stops = Stops()
  launcher = _launcher(options, stops)
  here = options.launcher == "local"
  sweep = Sweep(options.file, options.workdir, rest, needs_data=here)
  if options.dry_run:
    print("\n".join(launcher.lines(sweep.jobs)))
    return 0
  with locked(options.workdir):
    sweep.claim()
    with stops:
      ending = launcher.launch(sweep.jobs)
    summary = write_outcome(options.workdir, sweep.jobs, ending.failures)
  if here:
    print(f"\n{summary}")
  elif ending.failures or any(job.workdir.exists() for job in sweep.jobs):
    print(summary, file=sys.stderr)  # Standard output is what was started alone.
  if ending.interrupted:
    print("resnet-jax: stopped; run the same command to go on", file=sys.stderr)
    return EXIT_PREEMPTED
  return 1 if ending.failures else 0


def _check(options: argparse.Namespace) -> None:
  """Exits if options are given that belong to another launcher."""
  for name in {name for names in _OPTIONS.values() for name in names}:
    if getattr(options, name) is not None and name not in _OPTIONS[options.launcher]:
      options.parser.error(f"--{name} does not belong to --launcher {options.launcher}")
  if options.launcher == "commands":
    if options.zone and not options.tpu:
      options.parser.error("--zone belongs to --tpu")
    if (options.processes is None) != (options.coordinator is None):
      options.parser.error("--processes and --coordinator are given together")
    if options.processes and options.tpu:
      options.parser.error(
        "--tpu starts a process on each host, which find each other: leave out "
        "--processes and --coordinator"
      )
    if options.coordinator is not None:
      check_coordinator(options)
  if options.launcher == "skypilot" and not options.accelerator:
    options.parser.error("--launcher skypilot needs --accelerator, such as v5e-64")


def _launcher(options: argparse.Namespace, stops: Stops) -> Any:
  if options.launcher == "commands":
    from resnet_jax.launch.commands import Commands

    return Commands(options.tpu, options.zone, options.processes, options.coordinator)
  retries = 2 if options.retries is None else options.retries
  if options.launcher == "skypilot":
    from resnet_jax.launch.accelerators import parse_accelerator
    from resnet_jax.launch.skypilot import SkyPilot, require_skypilot

    accelerator = parse_accelerator(options.accelerator)
    if not options.dry_run:
      require_skypilot()
    return SkyPilot(
      options.workdir / "skypilot",
      accelerator,
      spot=bool(options.spot),
      retries=retries,
      setup=options.setup,
      region=options.region,
      zone=options.zone,
      stops=stops,
    )
  from resnet_jax.launch.local import Local
  from resnet_jax.launch.slots import split_machine

  return Local(split_machine(options.parallel), retries, stops)


def _count(text: str) -> int:
  with contextlib.suppress(ValueError):
    if int(text) >= 0:
      return int(text)
  raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
