"""The command `train`."""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_jax.commands.arguments import (
  add_command,
  add_processes,
  join_processes,
  location,
  only_fields,
)
from resnet_jax.commands.process import EXIT_PREEMPTED, Preempted, configure_jax

if TYPE_CHECKING:
  from resnet_jax.run.location import Location
  from resnet_jax.training.build import Run
  from resnet_jax.training.startup import StartUp


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "train",
    execute,
    "train a network, or go on where the run in the workdir stopped",
    "Run the same command again to resume. Fields of the config are replaced by "
    "--config.FIELD=VALUE; give --config and --help together to see them all.",
    takes_fields=True,
  )
  parser.add_argument("-h", "--help", action="store_true", help="show this message and exit")
  parser.add_argument(
    "--config",
    metavar="FILE[:ARG]",
    help="a Python file whose get_config(ARG) returns a Config, or a built-in experiment "
    "(digits, cifar10, imagenet)",
  )
  parser.add_argument(
    "--workdir", metavar="DIR", type=location, help="the run's directory, or gs://… in a bucket"
  )
  parser.add_argument(
    "--dry-run",
    action="store_true",
    help="resolve the config, compile the step, print what the run takes, and end",
  )
  add_processes(parser)


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  if options.help:
    options.parser.print_help()
    if not options.config:
      return 0
    rest = [*rest, "--help"]
    print()
  elif not options.config or not options.workdir:
    options.parser.error("--config and --workdir are required")
  preempted = Preempted()
  begun = time.monotonic()
  # Printed before JAX is imported, which takes a second or more. Where JAX finds the processes by
  # itself, the first one is known only afterwards.
  announced = f"resnet-jax train: config {options.config}, workdir {options.workdir}"
  if not (options.distributed or options.process or options.help or options.dry_run):
    print(announced, flush=True)
  configure_jax()
  from resnet_jax.run.config import load_config, override_config
  from resnet_jax.training.config import Config
  from resnet_jax.training.startup import StartUp

  start = StartUp(begun)
  config = override_config(load_config(options.config, Config), rest, "resnet-jax train")
  join_processes(options)
  from resnet_jax.processes import ends_all, is_first

  if options.distributed and is_first() and not options.dry_run:
    print(announced, flush=True)

  with ends_all():
    return _train(options, config, preempted, start)


def _train(
  options: argparse.Namespace, config: Any, preempted: Preempted, startup: "StartUp"
) -> int:
  from resnet_jax import processes
  from resnet_jax.run.config import to_json
  from resnet_jax.run.location import open_location
  from resnet_jax.run.wandb import require_wandb
  from resnet_jax.run.workdir import check_claim
  from resnet_jax.training.config import changeable
  from resnet_jax.training.description import aligned, start_rows
  from resnet_jax.training.dry_run import describe_run
  from resnet_jax.training.loop import fit
  from resnet_jax.training.restore import require_initial_weights, require_resumable

  with processes.together():
    processes.require_equal("config", to_json(config))
    run = _build(config, startup)
    location = open_location(options.workdir)
  workdir = _fetch(location)
  start = require_initial_weights(run, workdir)
  changed = {}
  with processes.together():
    if processes.is_first():
      changed = check_claim(workdir, config, changeable(config))
  with processes.together():
    require_resumable(run, workdir)
  if options.dry_run:
    described = describe_run(run)
    if processes.is_first():
      print(described)
      if start:
        print(f"\nstarts from the {start}")
    return 0
  with contextlib.ExitStack() as stack:
    with processes.together():
      if processes.is_first():
        if config.wandb_project:
          require_wandb()
        stack.enter_context(location.held())
        _claim(workdir, config, changed)
        location.send()
    _fetch(location)
    with processes.together():
      processes.require_shared(workdir / "config.json")
    if processes.is_first():
      print(aligned(start_rows(run) | {"workdir": options.workdir}), flush=True)
    preempted.begin()
    startup.ends("building")
    state = fit(run, workdir, preempted, startup)
    preempted.close()
  if state.step < run.steps:
    if processes.is_first():
      print("resnet-jax: saved after SIGTERM; run the same command to go on", file=sys.stderr)
    return EXIT_PREEMPTED
  return 0


def _build(config: Any, startup: "StartUp") -> "Run":
  """Opens the config's data set and builds the run, recording the phases of the start."""
  from resnet_jax.data.sources import open_dataset
  from resnet_jax.run.config import check_config
  from resnet_jax.training.build import build_run

  check_config(config)
  startup.ends("imports")
  dataset = open_dataset(config.data, config.seed)
  startup.ends("data")
  return build_run(config, dataset=dataset)


def _claim(workdir: pathlib.Path, config: Any, changed: Mapping[str, tuple[Any, Any]]) -> None:
  """Records in the directory what is to run, and on what; says in what it differs from before."""
  from resnet_jax.run.environment import record_environment
  from resnet_jax.run.workdir import claim
  from resnet_jax.training.config import changeable

  claim(workdir, config, changeable(config))
  for name, (before, after) in changed.items():
    print(f"goes on with {name}={after!r} instead of {before!r}")
  record_environment(workdir)


def _fetch(location: "Location") -> pathlib.Path:
  """Where the run's directory lies on this machine, as it is now, for each of the processes."""
  from resnet_jax import processes

  for first in (True, False):  # On one host the others find what the first has fetched.
    with processes.together():
      if processes.is_first() is first:
        location.fetch()
  return location.path
