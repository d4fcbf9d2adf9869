"""The process that one side is measured in: opens a stream of batches and times it when told to.

It is told by lines of JSON on standard input (the task, then a measurement each) and answers each
by one on standard output.
"""

import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from resnet_jax.benchmarks import costs
from resnet_jax.benchmarks.task import InputTask
from resnet_jax.errors import UserError

# From a task to an endless iterator that gives the number of images in each batch.
Opener = Callable[[InputTask], Iterator[int]]

# Imported only in the process of that side, so that none pays for another's libraries or threads.
SIDES = {
  "ours": "input_ours:batches",
  "floor_eager": "input_tensorflow:decode_eagerly",
  "floor_tf_data": "input_tensorflow:decode_in_tf_data",
  "tf_data": "input_tensorflow:batches",
  "tf_data_antialiased": "input_tensorflow:antialiased_batches",
  "torch": "input_torch:batches",
  "jpegs": "input_tensorflow:write_jpegs",
}


def main(side: str) -> None:
  """Serves one side until standard input ends.

  Args:
    side: One of `SIDES`.
  """
  # Libraries may print on standard output, so only this copy of it leads to the parent.
  with os.fdopen(os.dup(1), "w", buffering=1) as answers:
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
      answers.write(json.dumps(values) + "\n")

    values = json.loads(sys.stdin.readline())
    task = InputTask(**values | {"short_sides": tuple(values["short_sides"])})
    try:
      stream = _opener(side)(task)
      baseline = costs.resident_bytes()
      costs.forget_peak()
      warm_up(stream, task.examples)
    except ImportError as error:
      answer(user_error=f"{side} cannot be measured ({error}): {INSTALL}")
      return
    except UserError as error:
      answer(user_error=str(error))
      return
    answer(ready=True)
    for line in sys.stdin:
      measurement = measure(stream, **json.loads(line))
      answer(**dataclasses.asdict(measurement), peak_growth=_growth(baseline))


INSTALL = 'pip install "resnet_jax[tfds,torch]"'


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What some batches cost.

  Attributes:
    images: Number of images.
    steps: Number of batches.
    seconds: Time they took, simulated steps included.
    cpu_seconds: CPU time of the process and its children in that time.
    seconds_waited: The part of `seconds` in which the consumer waited for a batch.
  """

  images: int
  steps: int
  seconds: float
  cpu_seconds: float
  seconds_waited: float


def warm_up(stream: Iterator[int], examples: int) -> None:
  """One pass over the examples: fills the page cache, compiles, starts threads and workers."""
  seen = 0
  while seen < examples and (images := next(stream, None)) is not None:
    seen += images


def measure(
  stream: Iterator[int], seconds: float, images: int | None = None, step_seconds: float = 0.0
) -> Measurement:
  """Consumes whole batches and times them.

  Args:
    stream: Gives the number of images in each batch.
    seconds: For how long; at least one batch.
    images: How many at least, instead of `seconds`.
    step_seconds: How long the consumer's step takes after each batch. It sleeps, as a host does
      whose accelerator computes: the input has all cores for itself.
  """
  # Not measured: the batches that were ready before we asked are the fruit of no measured time.
  next(stream)
  time.sleep(step_seconds)
  count = steps = 0
  waited = 0.0
  cpu, start = costs.cpu_seconds(), time.perf_counter()
  while count < images if images else time.perf_counter() - start < seconds:
    asked = time.perf_counter()
    count += next(stream)
    waited += time.perf_counter() - asked
    steps += 1
    if step_seconds:
      time.sleep(step_seconds)
  elapsed = time.perf_counter() - start
  return Measurement(count, steps, elapsed, costs.cpu_seconds() - cpu, waited)


def _opener(side: str) -> Opener:
  module, _, function = SIDES[side].partition(":")
  opener: Opener = getattr(importlib.import_module(f"resnet_jax.benchmarks.{module}"), function)
  return opener


def _growth(baseline: int | None) -> int | None:
  peak = costs.peak_resident_bytes()
  return None if baseline is None or peak is None else max(0, peak - baseline)
