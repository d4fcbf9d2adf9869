"""The command `benchmark gpu`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, directory, positive_number

_DESCRIPTION = """\
Checks and measures the package on a GPU, in a fixed time. First compares networks, training steps,
learning rates and resident data with the CPU's, most of them in float64. Then trains ResNet-50 in
bfloat16 in comparison with PyTorch and Flax, and ResNet-20 with several seeds at once.
"""

_EPILOG = """\
Writes logs to --output continuously, and gpu.json after each part. If a part fails, the next ones
still run, and the exit status is 1. Does not need TensorFlow, tensorflow-datasets or tyro.

  resnet-jax benchmark gpu --output gpu
  resnet-jax benchmark gpu --output gpu --rehearse
"""


def add(parts: Any) -> None:
  """Adds the parser of `benchmark gpu`."""
  sub = add_benchmark(
    parts,
    "gpu",
    execute,
    "checks and speed on a GPU: ResNet-50 and its peers, several seeds at once",
    _DESCRIPTION,
    _EPILOG,
    takes_fields=False,
  )
  sub.add_argument("--output", metavar="DIR", type=directory, required=True, help="for logs")
  sub.add_argument(
    "--minutes", type=positive_number, metavar="M", default=9.0, help="total time; default: 9"
  )
  sub.add_argument(
    "--rehearse", action="store_true", help="the same program in sizes small enough for a CPU"
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Runs the benchmark; returns the exit status."""
  del rest
  from resnet_jax.commands.process import keep_to_cpu

  keep_to_cpu()
  import dataclasses
  import json

  from resnet_jax.benchmarks.gpu.rows import REHEARSAL, Plan, run_rows

  plan = dataclasses.replace(REHEARSAL if options.rehearse else Plan(), minutes=options.minutes)

  def say(line: str) -> None:
    if not options.json_only:
      print(line, flush=True)

  results = run_rows(plan, options.output, say)
  print(json.dumps(results))
  return int(any("error" in values for values in results.values()))
