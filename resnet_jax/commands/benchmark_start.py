"""The command `benchmark start`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, add_config, only_fields, positive

_DESCRIPTION = """\
Times the command train up to its first training step, in a new process each time: cold, with an
empty compilation cache, and warm, with the cache that the cold start filled. Fields of the config
are set as in train.
"""

_EPILOG = """\
Nothing else should run on the machine.

  resnet-jax benchmark start --config digits
  resnet-jax benchmark start --config imagenet:resnet50 --config.data.dataset=synthetic \\
    --config.data.synthetic.image_size=224 --config.data.mean=channel --config.batch_size=32
"""


def add(parts: Any) -> None:
  """Adds the parser of `benchmark start`."""
  sub = add_benchmark(
    parts, "start", execute, "the time from the command to the first step", _DESCRIPTION, _EPILOG
  )
  add_config(sub)
  sub.add_argument(
    "--rounds",
    type=positive,
    metavar="N",
    default=3,
    help="pairs of a cold and a warm start; default: 3",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Runs the benchmark; returns the exit status."""
  only_fields(options, rest)
  import json

  from resnet_jax.benchmarks.start import StartBenchmark, run_start_benchmark

  def say(line: str) -> None:
    if not options.json_only:
      print(line, flush=True)

  benchmark = StartBenchmark(options.config, rest, options.rounds)
  print(json.dumps(run_start_benchmark(benchmark, say)))
  return 0
