"""The command `report`."""

import argparse
import pathlib
from typing import Any

from resnet_jax.commands.arguments import add_command


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "report",
    execute,
    "draw the curves of one or more runs",
    "Writes pictures and a page that shows them.",
  )
  parser.add_argument("workdirs", metavar="WORKDIR", nargs="+", type=pathlib.Path)
  parser.add_argument("--output", metavar="DIR", type=pathlib.Path, required=True)


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  from resnet_jax.analysis.report import write_report

  print(write_report(options.workdirs, options.output))
  return 0
