"""What the parser of `sweep` knows of launchers: whose options are whose, and what they make."""

import argparse
import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.commands.arguments import check_coordinator, positive

if TYPE_CHECKING:
  from resnet_jax.launch.job import Launcher

# Which options belong to which launcher.
OPTIONS: Mapping[str, tuple[str, ...]] = {
  "local": ("parallel", "retries"),
  "commands": ("tpu", "zone", "processes", "coordinator"),
  "slurm": ("parallel", "retries", "processes", "sbatch", "detach"),
  "skypilot": ("accelerator", "spot", "retries", "setup", "region", "zone"),
}
# Those whose runs see what this machine sees: the data, and what they record while one waits.
SEES_THE_SAME = ("local", "slurm")


def add_launchers(parser: argparse.ArgumentParser) -> None:
  """Adds `--launcher`, and the options of each."""
  parser.add_argument(
    "--launcher",
    choices=tuple(OPTIONS),
    default="local",
    help="run them on this machine; print a command for each, for any scheduler; submit them to "
    "Slurm; or to SkyPilot, for slices of TPUs",
  )
  several = parser.add_argument_group("of several launchers")
  several.add_argument(
    "--parallel",
    metavar="K",
    type=positive,
    help="local, slurm: runs at a time. local divides GPUs or cores among them; default: one a "
    "GPU, or one. slurm: default: as many as it likes",
  )
  several.add_argument(
    "--retries",
    metavar="N",
    type=_count,
    help="local, slurm, skypilot: how often a run that failed is started again; default: 2",
  )
  several.add_argument(
    "--processes",
    metavar="N",
    type=positive,
    help="slurm: train each run with N processes; commands: print N commands a run",
  )
  several.add_argument("--zone", metavar="Z", help="commands, skypilot: of --tpu; or where")
  commands = parser.add_argument_group("commands")
  commands.add_argument(
    "--tpu", metavar="NAME", help="print gcloud commands for all hosts of this TPU VM"
  )
  commands.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="where the first of --processes listens, as all see it",
  )
  slurm = parser.add_argument_group("slurm")
  slurm.add_argument(
    "--sbatch", metavar="OPTIONS", help="further options of sbatch, for every run; write --sbatch=…"
  )
  slurm.add_argument("--detach", action="store_const", const=True, help="submit, and do not watch")
  sky = parser.add_argument_group("skypilot", "Each run is a managed job with hosts of its own.")
  sky.add_argument(
    "--accelerator", metavar="NAME", help="what each is trained on: v5e-64, v4-8, H100:8"
  )
  sky.add_argument(
    "--spot", action="store_const", const=True, help="what is cheaper and may be taken away"
  )
  sky.add_argument(
    "--setup",
    metavar="COMMAND",
    help="installs resnet-jax on a host, in a copy of the current directory, which by default is "
    "installed itself",
  )
  sky.add_argument("--region", metavar="R", help="where; default: wherever there is one")


def check_launcher(options: argparse.Namespace) -> None:
  """Exits if options are given that belong to another launcher, or do not fit together."""
  error = options.parser.error
  for name in {name for names in OPTIONS.values() for name in names}:
    if getattr(options, name) is not None and name not in OPTIONS[options.launcher]:
      error(f"--{name} does not belong to --launcher {options.launcher}")
  if options.launcher == "commands":
    if options.zone and not options.tpu:
      error("--zone belongs to --tpu")
    if (options.processes is None) != (options.coordinator is None):
      error("--processes and --coordinator are given together")
    if options.processes and options.tpu:
      error(
        "--tpu starts a process on each host, which find each other: leave out --processes and "
        "--coordinator"
      )
    if options.coordinator is not None:
      check_coordinator(options)
  if options.launcher == "slurm" and "://" in options.workdir:
    error(
      f"--workdir {options.workdir}: Slurm's logs and scripts need a directory that all nodes see"
    )
  if options.launcher == "skypilot" and not options.accelerator:
    error("--launcher skypilot needs --accelerator, such as v5e-64")


def make_launcher(
  options: argparse.Namespace, directory: pathlib.Path, stops: Callable[[], int]
) -> "Launcher":
  """The launcher that the options choose.

  Args:
    options: Of the command.
    directory: The sweep's, on this machine.
    stops: How often this process has been told to stop.

  Raises:
    UserError: What it needs is not on this machine.
  """
  retries = 2 if options.retries is None else options.retries
  makers: dict[str, Callable[..., Any]] = {
    "local": _local,
    "commands": _commands,
    "slurm": _slurm,
    "skypilot": _skypilot,
  }
  return makers[options.launcher](options, directory, retries, stops)


def _local(
  options: argparse.Namespace, directory: pathlib.Path, retries: int, stops: Callable[[], int]
) -> "Launcher":
  from resnet_jax.launch.local import Local
  from resnet_jax.launch.slots import split_machine

  del directory
  return Local(split_machine(options.parallel), retries, stops)


def _commands(
  options: argparse.Namespace, directory: pathlib.Path, retries: int, stops: Callable[[], int]
) -> "Launcher":
  from resnet_jax.launch.commands import Commands

  del directory, retries, stops
  return Commands(options.tpu, options.zone, options.processes, options.coordinator)


def _slurm(
  options: argparse.Namespace, directory: pathlib.Path, retries: int, stops: Callable[[], int]
) -> "Launcher":
  from resnet_jax.launch.slurm import Slurm
  from resnet_jax.launch.slurm_script import user_options

  return Slurm(
    directory,
    options.parallel,
    retries,
    options.processes or 1,
    user_options(options.sbatch or ""),
    bool(options.detach),
    stops,
  )


def _skypilot(
  options: argparse.Namespace, directory: pathlib.Path, retries: int, stops: Callable[[], int]
) -> "Launcher":
  from resnet_jax.launch.accelerators import parse_accelerator
  from resnet_jax.launch.skypilot import SkyPilot, require_skypilot

  accelerator = parse_accelerator(options.accelerator)
  if not options.dry_run:
    require_skypilot()
  return SkyPilot(
    directory / "skypilot",
    accelerator,
    spot=bool(options.spot),
    retries=retries,
    setup=options.setup,
    region=options.region,
    zone=options.zone,
    stops=stops,
  )


def _count(text: str) -> int:
  with contextlib.suppress(ValueError):
    if int(text) >= 0:
      return int(text)
  raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
