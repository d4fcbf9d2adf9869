"""The command `benchmark input`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_benchmark, positive, positive_number

_DESCRIPTION = """\
Reads the training view of a prepared data set as training does, up to the step, and says how many
images a second that gives, how many a second of CPU time, and how long a step waits. With --peers,
the same images go through others' pipelines too. Fields of the data section are replaced as in
train: --config.data.streaming.short_side_max=256
"""

_EPILOG = """\
Each side runs in a process of its own, which is stopped while it is another's turn; all read the
same files, from memory by then, with as many threads. Nothing else should run on the machine.

  resnet-jax benchmark input --dataset imagenet2012 --data-dir DATA --peers
  resnet-jax benchmark input --dataset imagenet2012 --data-dir DATA --step-ms 120 --batch-size 256
"""


def add(parts: Any) -> None:
  """Adds its parser."""
  sub = add_benchmark(
    parts,
    "input",
    execute,
    "reading, decoding and cropping of training images",
    _DESCRIPTION,
    _EPILOG,
  )
  sub.add_argument(
    "--dataset",
    metavar="NAME",
    required=True,
    help="imagenet2012 or another prepared set, or folder",
  )
  sub.add_argument(
    "--data-dir", metavar="DIR", help="default: $TFDS_DATA_DIR, or ~/tensorflow_datasets"
  )
  sub.add_argument(
    "--peers",
    action="store_true",
    help="also measure JPEG decoding alone, tf.data and a PyTorch DataLoader "
    '(pip install "resnet_jax[tfds,torch]")',
  )
  sub.add_argument(
    "--scaling", action="store_true", help="also measure ours with one and with two threads"
  )
  length = sub.add_mutually_exclusive_group()
  length.add_argument(
    "--seconds", type=positive_number, metavar="S", default=5.0, help="of each turn; default: 5"
  )
  length.add_argument(
    "--images", type=positive, metavar="N", help="of each turn, instead of seconds"
  )
  sub.add_argument(
    "--rounds", type=positive, metavar="N", default=5, help="turns of every side; default: 5"
  )
  sub.add_argument("--batch-size", type=positive, metavar="N", default=64, help="default: 64")
  sub.add_argument(
    "--threads", type=positive, metavar="T", default=0, help="on every side; default: one a core"
  )
  sub.add_argument(
    "--examples",
    type=positive,
    metavar="N",
    default=1000,
    help="the first N training examples are read over and over; default: 1000",
  )
  sub.add_argument(
    "--step-ms",
    type=positive_number,
    metavar="MS",
    default=0.0,
    help="also measure the wait behind a step of so many milliseconds on an accelerator; default: "
    "a step that takes no time",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  for argument in rest:
    if argument.startswith("--") and not argument.startswith("--config.data."):
      options.parser.error(f"unrecognized argument: {argument} (fields: --config.data.FIELD=VALUE)")
  import dataclasses
  import json

  from resnet_jax.benchmarks.input import InputBenchmark, run_input_benchmark
  from resnet_jax.run.config import load_config, override_config
  from resnet_jax.training.config import Config

  config = load_config("imagenet", Config)
  data = dataclasses.replace(config.data, dataset=options.dataset, data_dir=options.data_dir)
  config = override_config(
    dataclasses.replace(config, data=data), rest, "resnet-jax benchmark input"
  )
  benchmark = InputBenchmark(
    data=config.data,
    batch_size=options.batch_size,
    threads=options.threads,
    examples=options.examples,
    rounds=options.rounds,
    seconds=options.seconds,
    images=options.images,
    step_ms=options.step_ms,
    peers=options.peers,
    scaling=options.scaling,
  )

  def say(line: str) -> None:
    if not options.json_only:
      print(line, flush=True)

  print(json.dumps(run_input_benchmark(benchmark, say)))
  return 0
