"""The benchmarks: what they do so many times, with whatever takes time replaced."""

import dataclasses
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from runs import BASE
from table import Row, with_fields

from resnet_jax.benchmarks import compile as compiling
from resnet_jax.benchmarks import input as reading
from resnet_jax.benchmarks import step as stepping
from resnet_jax.benchmarks.tpu_slice import Slice
from resnet_jax.data import DataConfig, StreamingConfig

WIDER = with_fields(BASE, {"batch_size": 16})


# The step.

STEP = stepping.StepBenchmark(BASE, steps=4, rounds=2, log_every=2, save_every=2)


def timed(benchmark):
  """Images a step, steps alone and in runs, rounds, and the durations of the runs."""
  alone, in_runs, durations, lines = [0], [0], set(), []

  def one_step(state, constants, batch, key):
    alone[0] += 1
    return state, jnp.zeros(())

  def fit(run, workdir, should_stop):
    durations.add((run.log_every, run.checkpoint_every))
    in_runs[0] += next(number for number in itertools.count(1) if should_stop(number))

  with (
    mock.patch.object(stepping, "compile_step", lambda run: one_step),
    mock.patch.object(stepping, "initial_state", lambda run: jnp.zeros(())),
    mock.patch.object(stepping, "fit", fit),
  ):
    found = stepping.run_step_benchmark(benchmark, lines.append)
  ((log_every, save_every),) = durations
  return {
    "images": found["batch_size"],
    "alone": alone[0],
    "in_runs": in_runs[0],
    "rounds": len([line for line in lines if line.startswith("round")]),
    "log_every": log_every,
    "save_every": save_every,
  }


def timed_by_hand(images=8, steps=4, rounds=2, log_every=2, save_every=2):
  # Ten steps to warm up; in a run as many more as reach a record.
  warm_up = -(-10 // log_every) * log_every
  return {
    "images": images,
    "alone": rounds * (10 + steps),
    "in_runs": rounds * (warm_up + steps),
    "rounds": rounds,
    "log_every": log_every,
    "save_every": save_every,
  }


STEP_ROWS = (
  Row("config", (BASE, WIDER), timed, lambda config: timed_by_hand(images=config.batch_size)),
  *(
    Row(name, values, timed, lambda value, name=name: timed_by_hand(**{name: value}))
    for name, values in (
      ("steps", (4, 6)),
      ("rounds", (2, 3)),
      ("log_every", (2, 4)),
      ("save_every", (2, 3)),
    )
  ),
)


# The reading.

DATA = DataConfig("folder", streaming=StreamingConfig(decode_threads=3, short_side_max=300))
INPUT = reading.InputBenchmark(DATA, batch_size=4, rounds=2)


def asked(benchmark):
  """What the sides of an input benchmark are started and measured with, by their names."""
  sides, measured = [], []

  class Side:
    def __init__(self, kind, opener, task, install):
      sides.append((kind, task.threads))
      self.task = task

    def wait_until_ready(self):
      tasks.append(self.task)

    def measure(self, **arguments):
      measured.append(arguments)
      figures = ("images", "seconds", "cpu_seconds", "seconds_waited", "steps", "peak_growth")
      return dict.fromkeys(figures, 1.0)

    def close(self):
      pass

  tasks = []
  train = mock.Mock(size=2000, fetch=lambda epochs, examples: {"image": np.zeros(1)})
  dataset = mock.Mock(splits={"train": train})
  with (
    mock.patch.object(reading, "Side", Side),
    mock.patch.object(reading, "open_dataset", lambda config, seed: dataset),
    mock.patch.object(reading, "_require_peers", lambda config: None),
  ):
    reading.run_input_benchmark(benchmark, lambda line: None)
  task = tasks[0]
  return {
    "short_sides": task.short_sides,
    "batch_size": task.batch_size,
    "examples": task.examples,
    "threads": sorted(threads for kind, threads in sides if kind == "ours"),
    "others": {kind for kind, _ in sides if kind != "ours"},
    "turns": len(measured) // len([kind for kind, _ in sides if kind != "jpegs"]),
    "seconds": {each["seconds"] for each in measured},
    "images": {each["images"] for each in measured},
    "step_seconds": max(each["step_seconds"] for each in measured),
  }


PEERS = {"jpegs", "floor_eager", "floor_tf_data", "tf_data", "tf_data_antialiased", "torch"}


def asked_by_hand(**changes):
  return {
    "short_sides": (256, 300),
    "batch_size": 4,
    "examples": 1000,
    "threads": [3],
    "others": set(),
    "turns": 2,
    "seconds": {5.0},
    "images": {None},
    "step_seconds": 0.0,
  } | changes


OTHER_DATA = dataclasses.replace(DATA, streaming=StreamingConfig(decode_threads=3))
INPUT_ROWS = (
  Row(
    "data",
    (DATA, OTHER_DATA),
    asked,
    lambda data: asked_by_hand(short_sides=(256, data.streaming.short_side_max)),
  ),
  Row("batch_size", (4, 6), asked, lambda size: asked_by_hand(batch_size=size)),
  Row("threads", (0, 2), asked, lambda count: asked_by_hand(threads=[count or 3])),
  Row("examples", (1000, 30, 9000), asked, lambda count: asked_by_hand(examples=min(count, 2000))),
  Row("rounds", (2, 3), asked, lambda count: asked_by_hand(turns=count)),
  Row("seconds", (5.0, 0.5), asked, lambda length: asked_by_hand(seconds={length})),
  Row("images", (None, 70), asked, lambda count: asked_by_hand(images={count})),
  Row(
    "step_ms",
    (0.0, 20.0),
    asked,
    lambda ms: asked_by_hand(step_seconds=ms / 1000, threads=[3, 3] if ms else [3]),
  ),
  Row("peers", (False, True), asked, lambda also: asked_by_hand(others=PEERS if also else set())),
  Row(
    "scaling",
    (False, True),
    asked,
    lambda also: asked_by_hand(threads=[1, 2, 3] if also else [3]),
  ),
)


# Compiling for a slice of a TPU.

COMPILE = compiling.CompileBenchmark(
  with_fields(BASE, {"model.name": "resnet20", "model.overrides": {"stage_sizes": (1,)}}), "v5e:2x2"
)


def compiled(benchmark):
  """The slice and the batch that are compiled for, the layouts, and the largest batch that fits."""

  def compile_one(config, dataset, target):
    # A device has room for 30 images.
    used = 1000 * config.batch_size // 4
    if used > 30_000:
      raise compiling.DoesNotFitError
    return compiling.Compiled(1.0, [], 1.0, 1.0, arguments=used, temporary=1, code=0)

  def describe(name):
    return Slice(name, tuple(jax.devices()), 30_000)

  with (
    mock.patch.object(compiling, "describe_slice", describe),
    mock.patch.object(compiling, "_compile", compile_one),
    mock.patch.object(compiling, "with_flax_network", lambda run: run),
    mock.patch.object(
      compiling, "_compile_run", lambda run, target: compile_one(run.config, run.dataset, target)
    ),
  ):
    found = compiling.run_compile_benchmark(benchmark, lambda line: None)
  return {
    "topology": found["topology"],
    "images": found["batch_per_device"],
    "layouts": set(found["layouts"]),
    "largest": found["largest_batch_per_device"] or 0,
    "peer": found["flax"] is not None,
  }


def compiled_by_hand(**changes):
  both = {"unrolled", "scanned"}
  return {
    "topology": "v5e:2x2",
    "images": 2,
    "layouts": both,
    "largest": 24,
    "peer": False,
  } | changes


COMPILE_ROWS = (
  Row(
    "config",
    (COMPILE.config, dataclasses.replace(COMPILE.config, batch_size=16)),
    compiled,
    lambda config: compiled_by_hand(images=config.batch_size // 4),
  ),
  Row("topology", ("v5e:2x2", "v4:1x2x2"), compiled, lambda name: compiled_by_hand(topology=name)),
  Row("search", (True, False), compiled, lambda also: compiled_by_hand(largest=24 if also else 0)),
  Row(
    "layouts",
    (True, False),
    compiled,
    lambda also: compiled_by_hand(layouts={"unrolled", "scanned"} if also else {"unrolled"}),
  ),
  Row("peer", (False, True), compiled, lambda also: compiled_by_hand(peer=also)),
)
