"""The command `report`."""

import argparse
import pathlib
from typing import Any

from resnet_jax.commands.arguments import add_command, location


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "report",
    execute,
    "draw the curves of one or more runs",
    "Writes pictures and a page that shows them.",
  )
  parser.add_argument("workdirs", metavar="WORKDIR", nargs="+", type=location)
  parser.add_argument("--output", metavar="DIR", type=pathlib.Path, required=True)


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  from resnet_jax.analysis.report import write_report
  from resnet_jax.run.location import open_location

  runs = [open_location(text) for text in options.workdirs]
  for run in runs:
    run.fetch(exists=True)
  print(write_report([run.path for run in runs], options.output))
  return 0
