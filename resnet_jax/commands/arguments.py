"""What the parsers of the commands share."""

import argparse
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

Execute = Callable[[argparse.Namespace, list[str]], int]


def add_command(
  commands: Any, name: str, execute: Execute, summary: str, more: str, takes_fields: bool = False
) -> argparse.ArgumentParser:
  """The parser of a command.

  Args:
    commands: Where argparse keeps the parsers of commands.
    name: The command.
    execute: What it does: gets the options, and the arguments that the parser does not know; gives
      the exit status.
    summary: A line, without a full stop.
    more: What follows it in the command's own help.
    takes_fields: Whether fields of a config may follow, which need a help of their own.
  """
  parser = commands.add_parser(
    name,
    help=summary,
    description=f"{summary[0].upper()}{summary[1:]}. {more}",
    allow_abbrev=False,
    add_help=not takes_fields,
  )
  parser.set_defaults(command=execute, parser=parser, takes_fields=takes_fields)
  return parser


def add_benchmark(
  parts: Any,
  name: str,
  execute: Execute,
  summary: str,
  description: str,
  epilog: str,
  takes_fields: bool = True,
) -> argparse.ArgumentParser:
  """Adds the parser of a part of `benchmark`.

  Args:
    parts: The subparsers of `benchmark`.
    name: The part.
    execute: As in `add_command`.
    summary: A line, without a full stop.
    description: Text before the arguments in its help, printed unchanged.
    epilog: Text after them.
    takes_fields: Whether fields of a config may follow the arguments.
  """
  parser = parts.add_parser(
    name,
    help=summary,
    description=description,
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.set_defaults(command=execute, parser=parser, takes_fields=takes_fields)
  parser.add_argument("--json-only", action="store_true", help="print the JSON object alone")
  return parser


def add_config(parser: argparse.ArgumentParser) -> None:
  """Adds the argument that names a config, of a command that needs one."""
  parser.add_argument(
    "--config",
    metavar="FILE[:ARG]",
    required=True,
    help="a Python file whose get_config(ARG) returns a Config, or a built-in experiment",
  )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
  """Adds the argument that chooses between a run's checkpoints."""
  parser.add_argument(
    "--checkpoint",
    metavar="last|best|STEP",
    type=_checkpoint,
    default="last",
    help="which weights of a run: the last, the best by its checkpoint.metric, or a step's",
  )


def add_average(parser: Any) -> None:
  """Adds the argument that takes a run's average weights, to a parser or a group of it."""
  parser.add_argument(
    "--ema",
    action="store_true",
    help="the moving average of the weights instead, of a run with ema_decay",
  )


def _checkpoint(text: str) -> str:
  if text not in ("last", "best") and not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r}: give last, best or the number of a step")
  return text


def positive_number(text: str) -> float:
  """Parses a positive number."""
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 < number < math.inf:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
  return number


def directory(text: str) -> pathlib.Path:
  """Parses the name of a directory."""
  if not text:
    raise argparse.ArgumentTypeError("is empty")
  return pathlib.Path(text)


def location(text: str) -> str:
  """An argument that names a directory here, or gives the address of one in a bucket."""
  if not text:
    raise argparse.ArgumentTypeError("is empty")
  return text


def positive(text: str) -> int:
  """An argument that is an integer above 0."""
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
  return int(text)


def add_processes(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments by which several processes do a command together."""
  several = parser.add_argument_group(
    "several processes", "Start the same command in each; all need to see the same workdir."
  )
  several.add_argument(
    "--distributed",
    action="store_true",
    help="as JAX finds them by itself: on a TPU pod, under Slurm, under Kubernetes",
  )
  several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
  several.add_argument("--processes", metavar="N", type=positive, help="how many there are")
  several.add_argument("--process", metavar="I", type=_index, help="which one this is, from 0")


def join_processes(options: argparse.Namespace) -> None:
  """Joins the other processes, if the options say so; before JAX is asked for its devices."""
  explicit = (options.coordinator, options.processes, options.process)
  if options.distributed and any(value is not None for value in explicit):
    options.parser.error("give --distributed, or --coordinator, --processes and --process")
  if any(value is not None for value in explicit):
    if any(value is None for value in explicit):
      options.parser.error("--coordinator, --processes and --process are given together")
    if options.process >= options.processes:
      options.parser.error(
        f"--process {options.process}: of {options.processes} processes the last is "
        f"{options.processes - 1}"
      )
    check_coordinator(options)
  if options.distributed or options.coordinator:
    from resnet_jax import processes

    processes.join(*explicit)


def check_coordinator(options: argparse.Namespace) -> None:
  """Exits unless a coordinator is a host and a port."""
  if not re.fullmatch(r".+:\d+", options.coordinator):
    options.parser.error(f"--coordinator {options.coordinator}: expected HOST:PORT")


def _index(text: str) -> int:
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
  return int(text)


def only_fields(options: argparse.Namespace, rest: list[str]) -> None:
  """Exits unless all further arguments are fields of the config."""
  for argument in rest:
    if argument.startswith("--") and not argument.startswith("--config."):
      options.parser.error(f"unrecognized argument: {argument}")
