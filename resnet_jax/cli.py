"""The front door: parses the command line, calls, prints."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from resnet_jax import __version__
from resnet_jax.commands import (
  benchmark_compile,
  benchmark_gpu,
  benchmark_input,
  benchmark_peers,
  benchmark_start,
  benchmark_step,
  convert,
  evaluate,
  models,
  predict,
  prepare,
  reestimate_bn,
  report,
  sweep,
  train,
)
from resnet_jax.commands.process import EXIT_BROKEN_PIPE, EXIT_USER_ERROR
from resnet_jax.errors import UserError

_EPILOG = """\
first steps:
  resnet-jax train --config digits --workdir runs/digits
  resnet-jax evaluate --workdir runs/digits --split test
  resnet-jax report runs/digits --output runs/report
  resnet-jax sweep digits --workdir runs/sweep

Each command explains itself: resnet-jax COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one command and exits: 0 done, 2 a mistake of the user's, 75 pre-empted and saved.

  1 is a failure of the machine (a full disk, say), or with a traceback a defect of ours.
  """
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  if rest and not options.takes_fields:
    parser.error(f"unrecognized arguments: {' '.join(rest)}")
  try:
    status = options.command(options, rest)
    sys.stdout.flush()
    sys.exit(status)
  except UserError as error:
    print(f"resnet-jax: {error}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
  except BrokenPipeError:  # `resnet-jax models | head`: nobody reads on
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains
    sys.exit(EXIT_BROKEN_PIPE)
  except OSError as error:  # a full disk, a directory without permission
    print(f"resnet-jax: {error}", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print("\nresnet-jax: interrupted", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="resnet-jax",
    description="Deep residual learning in JAX and Flax: train, resume, evaluate, report.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--version", action="version", version=f"resnet_jax {__version__}")
  commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

  for command in (
    train,
    evaluate,
    predict,
    reestimate_bn,
    models,
    prepare,
    convert,
    report,
    sweep,
  ):
    command.add(commands)
  benchmark = commands.add_parser(
    "benchmark",
    help="measure how fast parts of this package are",
    description="Measures how fast parts of this package are. The last line of each is one JSON "
    "object.",
    allow_abbrev=False,
  )
  parts = benchmark.add_subparsers(title="parts", metavar="PART", required=True)
  benchmark_input.add(parts)
  benchmark_step.add(parts)
  benchmark_start.add(parts)
  benchmark_compile.add(parts)
  benchmark_peers.add(parts)
  benchmark_gpu.add(parts)
  return parser
