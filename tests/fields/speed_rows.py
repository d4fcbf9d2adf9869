"""Benchmarks beside peers, of starts and of seeds at once, on a clock that only work moves."""

import itertools
from types import SimpleNamespace
from unittest import mock

import numpy as np
from table import Row

from resnet_jax.benchmarks import start as starting
from resnet_jax.benchmarks.gpu import seeds as seeding
from resnet_jax.benchmarks.peers import benchmark as peering


class Clock:
  """Seconds that pass only by `passes`, in place of the module `time`."""

  def __init__(self):
    self.now = 0.0

  def monotonic(self):
    return self.now

  perf_counter = monotonic

  def passes(self, seconds):
    self.now += seconds


# Beside PyTorch and Flax. A turn takes a minute.

PEERS = peering.PeersBenchmark(
  ("resnet20",), ("training",), ("ours", "flax"), rounds=2, seconds=3.0, processes=2
)


def compared(benchmark):
  """What is measured of which network, and the turns of each process."""
  clock, tasks, started = Clock(), {}, []

  class Side:
    def __init__(self, name, opener, task):
      tasks[task.network, task.mode] = task
      started.append([name, 0])
      self.turns = started[-1]

    def wait_until_ready(self):
      pass

    def measure(self, seconds, images=None):
      clock.passes(60)
      self.turns[1] += 1
      lengths.add(seconds)
      facts = ("devices", "parameters", "peak_memory_bytes", "setup_seconds", "first_step_seconds")
      facts += ("first_loss", "last_loss", "images", "seconds")
      return dict.fromkeys(facts, 1.0) | {"platform": "cpu"}

    def close(self):
      pass

  lengths = set()
  with mock.patch.object(peering, "_start", Side), mock.patch.object(peering, "time", clock):
    peering.run_peers_benchmark(benchmark, lambda line: None)
  return {
    "networks": [network for network, _ in tasks],
    "modes": [mode for _, mode in tasks],
    "shapes": [(task.batch_size, task.image_size) for task in tasks.values()],
    "dtypes": {task.dtype for task in tasks.values()},
    "turns": [tuple(turns) for turns in started],
    "seconds": lengths,
  }


def compared_by_hand(**changes):
  both = [("ours", 2), ("flax", 2)]
  return {
    "networks": ["resnet20"],
    "modes": ["training"],
    "shapes": [(128, 32)],
    "dtypes": {"float32"},
    "turns": both + both,
    "seconds": {3.0},
  } | changes


def turns_by_hand(names=("ours", "flax"), rounds=2, processes=2):
  return compared_by_hand(turns=[(name, rounds) for name in names] * processes)


ALL_SIDES = ("ours", "ours_folded", "flax", "torch", "torch_compile")
PEERS_ROWS = (
  Row(
    "networks",
    (("resnet20",), ("resnet18",), ("resnet50",)),
    compared,
    lambda names: compared_by_hand(
      networks=[*names],
      shapes=[{"resnet20": (128, 32), "resnet18": (32, 224), "resnet50": (16, 224)}[names[0]]],
    ),
  ),
  Row(
    "modes",
    (("training",), ("inference",)),
    compared,
    lambda modes: compared_by_hand(modes=[*modes]),
  ),
  Row(
    "sides",
    (("ours", "flax"), ("flax", "ours_folded"), ALL_SIDES),
    compared,
    lambda names: turns_by_hand(names) | {"modes": ["inference"]},
    {"modes": ("inference",)},
  ),
  Row(
    "batch_size",
    (None, 8),
    compared,
    lambda size: compared_by_hand(shapes=[(size or 128, 32)]),
  ),
  Row(
    "image_size", (None, 40), compared, lambda size: compared_by_hand(shapes=[(128, size or 32)])
  ),
  Row("dtype", ("float32", "bfloat16"), compared, lambda name: compared_by_hand(dtypes={name})),
  Row("rounds", (2, 3), compared, lambda count: turns_by_hand(rounds=count)),
  Row("seconds", (3.0, 0.5), compared, lambda length: compared_by_hand(seconds={length})),
  Row("processes", (2, 1), compared, lambda count: turns_by_hand(processes=count)),
  # A round takes two minutes; after two rounds of three no other begins.
  Row(
    "minutes",
    (None, 3.0),
    compared,
    lambda end: turns_by_hand(rounds=2 if end else 3, processes=1),
    {"rounds": 3, "processes": 1},
  ),
)


# The start of a run.

START = starting.StartBenchmark("digits", ("--config.seed=1",), rounds=2)


def started(benchmark):
  """The commands that are timed, without their workdirs, and their number."""
  commands = []

  class Process:
    def __init__(self, command, **_):
      commands.append([word for word in command[3:] if "resnet_jax-benchmark" not in word])
      phases = ", ".join(f"{name} 1.00 s" for name in starting.PHASES)
      self.stdout = ["first\n", f"started: {phases}\n"]

    def kill(self):
      pass

    def wait(self):
      pass

  with mock.patch.object(starting, "subprocess", SimpleNamespace(Popen=Process, PIPE=None)):
    found = starting.run_start_benchmark(benchmark, lambda line: None)
  (command,) = {tuple(command) for command in commands}
  return {"command": command, "starts": len(commands)} | {
    name: found[name] for name in ("config", "fields")
  }


def started_by_hand(config="digits", fields=("--config.seed=1",), rounds=2):
  return {
    "command": ("train", "--config", config, "--workdir", *fields),
    "starts": 2 * rounds,
    "config": config,
    "fields": [*fields],
  }


START_ROWS = tuple(
  Row(name, values, started, lambda value, name=name: started_by_hand(**{name: value}))
  for name, values in (
    ("config", ("digits", "cifar10:resnet20")),
    ("fields", (("--config.seed=1",), ("--config.seed=2", "--config.log_every=1"))),
    ("rounds", (2, 3)),
  )
)


# Several seeds at once. A dispatch takes a second.

SEEDS = seeding.SeedsBenchmark((1, 3), steps=5, seconds=4.0, limit=90.0, examples=64, batch_size=8)


def seeded(benchmark):
  """The rows, of which every dispatch takes a second, how many there were, and on what data."""
  clock, dispatches, sizes = Clock(), itertools.count(), set()

  def dispatching(config, seeds, steps):
    sizes.add((config.data.synthetic.train_examples, config.batch_size))

    def dispatch():
      clock.passes(1)
      next(dispatches)
      each = np.full((seeds, steps), float(config.batch_size))
      return SimpleNamespace(weight=each, loss=each)

    return dispatch

  with (
    mock.patch.object(seeding, "time", clock),
    mock.patch.object(seeding, "build_run", lambda config: config),
    mock.patch.object(seeding, "_one_step_at_a_time", lambda config: dispatching(config, 1, 1)),
    mock.patch.object(seeding, "_at_once", dispatching),
  ):
    found = seeding.run_seeds_benchmark(benchmark, lambda line: None)
  ((examples, batch_size),) = sizes
  assert batch_size == found["batch_size"]
  return {
    "rows": [
      (row["seeds"], row["steps_per_dispatch"], row["images_per_second"]) for row in found["rows"]
    ],
    "dispatches": next(dispatches),
    "examples": examples,
  }


def seeded_by_hand(counts=(1, 3), steps=5, seconds=4.0, examples=64, batch_size=8, limit=90.0):
  # One to compile and one to be ahead of the clock; then one a second.
  a_row = 2 + int(seconds)
  rows = [(1, 1, batch_size), *((n, steps, n * steps * batch_size) for n in counts)]
  rows = rows[: 1 + int(limit) // a_row]
  return {"rows": rows, "dispatches": len(rows) * a_row, "examples": examples}


SEEDS_ROWS = tuple(
  Row(name, values, seeded, lambda value, name=name: seeded_by_hand(**{name: value}))
  for name, values in (
    ("counts", ((1, 3), (2, 4, 6))),
    ("steps", (5, 2)),
    ("seconds", (4.0, 7.0)),
    ("limit", (90.0, 7.0, 2.0)),
    ("examples", (64, 32)),
    ("batch_size", (8, 16)),
  )
)
