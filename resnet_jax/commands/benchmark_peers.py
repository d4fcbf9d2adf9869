"""The command `benchmark peers`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, positive, positive_number

_DESCRIPTION = """\
Measures training and inference of residual networks in this package, in PyTorch (eager,
channels_last; on GPUs torch.compile too), and in Flax with stock layers, in turns. Every side does
the same work on a fixed batch that is already on the device. Reports images per second, ratios,
peak memory, and the time of the first step.
"""

_EPILOG = """\
Each side runs in a process of its own, which is stopped during the turns of the others. Nothing
else should run on the machine. If PyTorch is not installed, its sides are left out.

  resnet-jax benchmark peers
  resnet-jax benchmark peers --networks resnet20 --mode training --processes 3 --rounds 3
  resnet-jax benchmark peers --networks resnet50 --batch-size 256 --dtype bfloat16
"""


def add(parts: Any) -> None:
  """Adds the parser of `benchmark peers`."""
  sub = add_benchmark(
    parts,
    "peers",
    execute,
    "training and inference compared with PyTorch and Flax",
    _DESCRIPTION,
    _EPILOG,
    takes_fields=False,
  )
  for name, metavar, default, what in (
    ("--networks", "NAME,…", "resnet20,resnet18,resnet50", "residual networks of the catalog"),
    ("--mode", "MODE,…", "training,inference", "training, inference or both"),
  ):
    sub.add_argument(
      name,
      metavar=metavar,
      type=_names,
      default=_names(default),
      help=f"{what}; default: {default}",
    )
  sub.add_argument(
    "--sides",
    metavar="SIDE,…",
    type=_names,
    default=(),
    help="ours, ours_folded (inference with batch norm folded into the convolutions), flax, torch, "
    "torch_compile; default: all, but torch_compile only on GPUs",
  )
  sub.add_argument(
    "--batch-size",
    type=positive,
    metavar="N",
    help="for every network; default: 128 for CIFAR's, 32 for resnet18, 16 for others",
  )
  sub.add_argument(
    "--image-size", type=positive, metavar="PIXELS", help="default: the paper's, 32 or 224"
  )
  sub.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="dtype of the computation (in PyTorch, by autocast); default: float32",
  )
  sub.add_argument(
    "--rounds", type=positive, metavar="N", default=5, help="turns of every side; default: 5"
  )
  sub.add_argument(
    "--seconds", type=positive_number, metavar="S", default=5.0, help="length of a turn; default: 5"
  )
  sub.add_argument(
    "--processes",
    type=positive,
    metavar="N",
    default=1,
    help="start every side N times, with --rounds turns each; default: 1",
  )
  sub.add_argument(
    "--minutes",
    type=positive_number,
    metavar="M",
    help="begin no further side or round after M minutes; default: no limit",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Runs the benchmark; returns the exit status."""
  del rest
  from resnet_jax.commands.process import keep_to_cpu

  keep_to_cpu()
  import json

  from resnet_jax.benchmarks.peers.benchmark import PeersBenchmark, run_peers_benchmark

  benchmark = PeersBenchmark(
    networks=options.networks,
    modes=options.mode,
    sides=options.sides,
    batch_size=options.batch_size,
    image_size=options.image_size,
    dtype=options.dtype,
    rounds=options.rounds,
    seconds=options.seconds,
    processes=options.processes,
    minutes=options.minutes,
  )

  def say(line: str) -> None:
    if not options.json_only:
      print(line, flush=True)

  print(json.dumps(run_peers_benchmark(benchmark, say)))
  return 0


def _names(text: str) -> tuple[str, ...]:
  """Parses a list of names separated by commas."""
  names = tuple(name.strip() for name in text.split(","))
  if not all(names):
    raise argparse.ArgumentTypeError(f"{text!r}: give names separated by commas")
  return names
