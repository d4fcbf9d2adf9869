"""The benchmark of the input pipeline: ours and those of other libraries, in turns."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.benchmarks.machine import cores, describe_machine
from resnet_jax.benchmarks.side import Side
from resnet_jax.benchmarks.task import InputTask
from resnet_jax.data import DataConfig, open_dataset
from resnet_jax.data.split_sources import FOLDER
from resnet_jax.errors import UserError
from resnet_jax.run.config import to_json

INSTALL = 'pip install "resnet_jax[tfds,torch]"'

FLOORS = ("floor_eager", "floor_tf_data")
PIPELINES = ("tf_data", "tf_data_antialiased", "torch")
PEERS = (*FLOORS, *PIPELINES)
OPENERS = {
  "ours": "input_ours:batches",
  "floor_eager": "input_tensorflow:decode_eagerly",
  "floor_tf_data": "input_tensorflow:decode_in_tf_data",
  "tf_data": "input_tensorflow:batches",
  "tf_data_antialiased": "input_tensorflow:antialiased_batches",
  "torch": "input_torch:batches",
  "jpegs": "input_tensorflow:write_jpegs",
}
_TITLES = {
  "ours": "ours",
  "floor_eager": "decode floor, eager calls",
  "floor_tf_data": "decode floor, tf.data map",
  "tf_data": "tf.data",
  "tf_data_antialiased": "tf.data, antialiased",
  "torch": "torch DataLoader, Pillow",
  "one_thread": "ours, 1 thread",
  "two_threads": "ours, 2 threads",
}
_STEPPING = "stepping"
_PACKAGES = ("jax", "numpy", "pillow", "tensorflow", "tensorflow-datasets", "torch")

# A turn should have at least so many batches that those read ahead before it do not matter.
_FEWEST_BATCHES = 50

Rates = dict[str, float]


@dataclasses.dataclass(frozen=True)
class InputBenchmark:
  """Settings of the input benchmark.

  Attributes:
    data: The data section of a config.
    batch_size: Images per batch.
    threads: Decoding threads of every side; 0 for the config's number, by default one per core.
    examples: Number of training examples to read repeatedly; all of a smaller set.
    rounds: Number of turns of every side.
    seconds: Length of a turn.
    images: Number of images in a turn, instead of `seconds`.
    step_ms: Milliseconds of a simulated training step after each batch.
    peers: Whether to measure the decode floor, tf.data and PyTorch too.
    scaling: Whether to measure ours with one and with two threads too.
  """

  data: DataConfig
  batch_size: int = 64
  threads: int = 0
  examples: int = 1000
  rounds: int = 5
  seconds: float = 5.0
  images: int | None = None
  step_ms: float = 0.0
  peers: bool = False
  scaling: bool = False


def run_input_benchmark(
  benchmark: InputBenchmark, say: Callable[[str], None] = print
) -> dict[str, Any]:
  """Measures all sides in turns and summarises the rounds.

  Args:
    benchmark: What to measure.
    say: Called with each line of progress and of the table.

  Returns:
    Figures that can be written as JSON; docs/performance.md explains each.

  Raises:
    UserError: The data set is not prepared, is not decoded on the host, or a peer is missing.
  """
  if benchmark.peers:
    _require_peers(benchmark.data)
  task = _task(benchmark)
  if benchmark.images and benchmark.images < _FEWEST_BATCHES * benchmark.batch_size:
    say(
      f"a turn of {benchmark.images} images is too short to measure: batches that were read ahead "
      f"count for nothing; take {_FEWEST_BATCHES * benchmark.batch_size} or more"
    )
  load = os.getloadavg()[0]
  say(
    f"{task.dataset}: {task.examples} training examples, batches of {task.batch_size}, "
    f"{task.threads} threads; {benchmark.rounds} rounds"
  )
  rounds: list[dict[str, dict[str, Any]]] = []
  with contextlib.ExitStack() as stack:
    sides = _start(benchmark, task, stack)
    for number in range(benchmark.rounds):
      measured = {
        name: side.measure(
          seconds=benchmark.seconds,
          images=benchmark.images,
          step_seconds=benchmark.step_ms / 1000 if name == _STEPPING else 0,
        )
        for name, side in sides.items()
      }
      rounds.append(measured)
      say(f"round {number + 1}: {_line(measured)}")
  return _summary(benchmark, task, rounds, say) | {"load_average_before": load}


def _task(benchmark: InputBenchmark) -> InputTask:
  """Describes the work; opens the data set to report its faults before any side starts."""
  config = benchmark.data
  train = open_dataset(config, seed=0).splits["train"]
  first = np.zeros(1, np.int32)
  if "image" not in train.fetch(first, first):
    raise UserError(
      f"{config.dataset} is held on the device, so no step waits for its input: measure a data set "
      "that is decoded on the host: imagenet2012, folder, …"
    )
  streaming = config.streaming
  return InputTask(
    dataset=config.dataset,
    data_dir=config.data_dir,
    examples=min(benchmark.examples, train.size),
    batch_size=benchmark.batch_size,
    threads=benchmark.threads or streaming.decode_threads or cores(),
    image_size=streaming.image_size,
    short_sides=(streaming.short_side_min, streaming.short_side_max),
    config=to_json(config),
  )


def _require_peers(config: DataConfig) -> None:
  if config.dataset == FOLDER:
    raise UserError("--peers read TFRecords of tensorflow-datasets: measure imagenet2012, or alone")
  if sys.platform != "linux":
    raise UserError("--peers reads the CPU time of other processes, which needs Linux")
  for module in ("tensorflow", "tensorflow_datasets", "torch"):
    if importlib.util.find_spec(module) is None:
      raise UserError(f"--peers needs {module}, which is not installed: {INSTALL}")


def _start(
  benchmark: InputBenchmark, task: InputTask, stack: contextlib.ExitStack
) -> dict[str, Side]:
  """Starts every side, warms it up and stops it; returns the sides by name."""
  tasks = {"ours": task}
  if benchmark.step_ms:
    # In a process of its own: batches that were read ahead during slow steps would cost nothing in
    # the turn that measures throughput.
    tasks[_STEPPING] = task
  if benchmark.scaling:
    tasks["one_thread"] = dataclasses.replace(task, threads=1)
    tasks["two_threads"] = dataclasses.replace(task, threads=2)
  if benchmark.peers:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="resnet_jax-jpegs-"))
    task = dataclasses.replace(task, jpegs=folder)
    with contextlib.closing(side("jpegs", task)) as writer:
      writer.wait_until_ready()
    tasks |= dict.fromkeys(PEERS, task)
  started = {}
  for name, its_task in tasks.items():
    kind = name if name in PEERS else "ours"
    started[name] = stack.enter_context(contextlib.closing(side(kind, its_task)))
  # All at once, so that each is stopped as soon as it is ready, before it has read far ahead.
  with concurrent.futures.ThreadPoolExecutor(len(started)) as executor:
    list(executor.map(Side.wait_until_ready, started.values()))
  return started


def side(kind: str, task: InputTask) -> Side:
  """Starts the process of a side; `kind` is a key of `OPENERS`."""
  return Side(kind, f"resnet_jax.benchmarks.{OPENERS[kind]}", task, INSTALL)


def _rates(measured: Mapping[str, Any]) -> Rates:
  return {
    "images_per_second": measured["images"] / measured["seconds"],
    "images_per_cpu_second": measured["images"] / measured["cpu_seconds"],
  }


def _line(measured: Mapping[str, Mapping[str, Any]]) -> str:
  rates = {name: _rates(measurement) for name, measurement in measured.items() if name in _TITLES}
  words = [f"{name} {its['images_per_cpu_second']:.0f}" for name, its in rates.items()]
  return ", ".join(words) + " images per CPU-second"


def _summary(
  benchmark: InputBenchmark,
  task: InputTask,
  rounds: Sequence[Mapping[str, Mapping[str, Any]]],
  say: Callable[[str], None],
) -> dict[str, Any]:
  names = [name for name in rounds[0] if name in _TITLES]
  rates = {name: [_rates(measured[name]) for measured in rounds] for name in names}
  values: dict[str, Any] = {
    "benchmark": "input",
    "dataset": task.dataset,
    "examples": task.examples,
    "batch_size": task.batch_size,
    "threads": task.threads,
    "rounds": benchmark.rounds,
    **_spread(rates["ours"]),
    "step_ms": benchmark.step_ms,
    "seconds_step_waits_for_input": statistics.median(
      waited["seconds_waited"] / waited["steps"]
      for waited in (measured.get(_STEPPING, measured["ours"]) for measured in rounds)
    ),
    "peak_rss_growth_bytes": rounds[-1]["ours"]["peak_growth"],
  }
  if benchmark.scaling:
    one, two = rates["one_thread"], rates["two_threads"]
    values |= _ratio("scaling_1_to_2_threads", two, one, "images_per_second")
  if benchmark.peers:
    floor = max(FLOORS, key=lambda name: _spread(rates[name])["images_per_cpu_second"])
    values["decode_floor"] = floor
    for name in ("decode_floor", *PIPELINES):
      theirs = rates[floor if name == "decode_floor" else name]
      values |= _ratio(f"ratio_to_{name}", rates["ours"], theirs, "images_per_cpu_second")
    values["peers"] = {name: _spread(rates[name]) for name in PEERS}
  for line in _table(rates):
    say(line)
  return values | describe_machine(_PACKAGES)


def _spread(rates: Sequence[Rates]) -> dict[str, Any]:
  """Returns the median and the range of each rate over the rounds."""
  values: dict[str, Any] = {}
  for unit in rates[0]:
    series = [rate[unit] for rate in rates]
    values |= {unit: statistics.median(series), f"{unit}_range": [min(series), max(series)]}
  return values


def _ratio(label: str, ours: Sequence[Rates], theirs: Sequence[Rates], unit: str) -> dict[str, Any]:
  """Returns the median of the rounds' ratios, in which a slowdown of a whole round cancels."""
  ratios = [our[unit] / their[unit] for our, their in zip(ours, theirs, strict=True)]
  return {label: statistics.median(ratios), f"{label}_range": [min(ratios), max(ratios)]}


def _table(rates: Mapping[str, Sequence[Rates]]) -> Iterator[str]:
  yield f"{'':26}{'images/s':>10}{'images/CPU-s':>14}{'(range)':>20}{'ours is':>10}"
  for name, its in rates.items():
    row = _spread(its)
    low, high = row["images_per_cpu_second_range"]
    ratio = _ratio("r", rates["ours"], its, "images_per_cpu_second")["r"]
    yield (
      f"{_TITLES[name]:26}{row['images_per_second']:10.1f}{row['images_per_cpu_second']:14.1f}"
      f"{f'({low:.1f} to {high:.1f})':>20}" + (f"{ratio:9.2f}x" if name in PEERS else "")
    )
