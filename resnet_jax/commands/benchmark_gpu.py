"""The command `benchmark gpu`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, directory, positive_number

_DESCRIPTION = """\
Checks and measures all that needs a GPU, in a fixed time. First networks, training steps, learning
rates and resident data are compared with the CPU's, most of them in float64. Then ResNet-50 is
trained in bfloat16 beside PyTorch and Flax, and ResNet-20 with several seeds at once.
"""

_EPILOG = """\
Logs are written to --output as it goes, and gpu.json after each part. A part that fails does not
keep the next one back; the exit status is 1 then. TensorFlow, tensorflow-datasets and tyro are not
needed.

  resnet-jax benchmark gpu --output gpu
  resnet-jax benchmark gpu --output gpu --rehearse
"""


def add(parts: Any) -> None:
  """Adds its parser."""
  sub = add_benchmark(
    parts,
    "gpu",
    execute,
    "all that needs a GPU: checks, ResNet-50 beside its peers, several seeds at once",
    _DESCRIPTION,
    _EPILOG,
    takes_fields=False,
  )
  sub.add_argument("--output", metavar="DIR", type=directory, required=True, help="for logs")
  sub.add_argument(
    "--minutes", type=positive_number, metavar="M", default=9.0, help="in all; default: 9"
  )
  sub.add_argument(
    "--rehearse", action="store_true", help="the same program in sizes that a CPU manages"
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
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
