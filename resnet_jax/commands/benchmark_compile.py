"""The command `benchmark compile`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, add_config, only_fields
from resnet_jax.commands.process import describe_tpus, keep_to_cpu

_DESCRIPTION = """\
Compiles the training step of a config for a slice of a TPU, by the TPU's own compiler, on a machine
without one: what devices exchange, memory, the largest batch that fits, and how long it takes to
compile with the equal blocks of a stage unrolled and in a loop. The data of imagenet2012 and CIFAR
need not be there. Fields of the config are replaced as in train.
"""

_EPILOG = """\
It takes pip install "resnet_jax[tpu]", and some minutes of a CPU.

  resnet-jax benchmark compile --topology v5e:8x8 --config imagenet:resnet50 \\
    --config.batch_size=8192 --config.model.dtype=bfloat16
"""


def add(parts: Any) -> None:
  """Adds its parser."""
  sub = add_benchmark(
    parts, "compile", execute, "what a step takes on a TPU, without one", _DESCRIPTION, _EPILOG
  )
  add_config(sub)
  sub.add_argument(
    "--topology",
    metavar="KIND:XxY",
    required=True,
    help="the slice: v2, v3, v4, v5e, v5p or v6e, and its chips along each axis, such as v5e:8x8",
  )
  sub.add_argument(
    "--no-search", action="store_true", help="do not look for the largest batch that fits"
  )
  sub.add_argument(
    "--one-layout", action="store_true", help="do not compile the other layout of the blocks too"
  )
  sub.add_argument(
    "--peer",
    choices=("flax",),
    help="also compile the step with a plain Flax network in the style of Flax's ImageNet example",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  keep_to_cpu()
  describe_tpus()
  import json

  from resnet_jax.benchmarks.compile import CompileBenchmark, run_compile_benchmark
  from resnet_jax.run.config import load_config, override_config
  from resnet_jax.training.config import Config

  config = override_config(
    load_config(options.config, Config), rest, "resnet-jax benchmark compile"
  )
  benchmark = CompileBenchmark(
    config,
    options.topology,
    search=not options.no_search,
    layouts=not options.one_layout,
    peer=options.peer is not None,
  )

  def say(line: str) -> None:
    if not options.json_only:
      print(line, flush=True)

  print(json.dumps(run_compile_benchmark(benchmark, say)))
  return 0
