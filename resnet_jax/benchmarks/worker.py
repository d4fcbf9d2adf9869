"""The process of one side, which opens its work and times it on request.

It reads requests from standard input, a line of JSON each (first the task, then the measurements),
and answers each with one line on standard output.
"""

import dataclasses
import importlib
import json
import os
import sys
import time
from typing import Any

from resnet_jax.benchmarks import costs
from resnet_jax.benchmarks.work import Work
from resnet_jax.errors import UserError


def main() -> None:
  """Serves one side until standard input ends.

  The first line holds `opener`, "module:name" of a function from a task to `Work`; `kind`, the
  class of the task in the same form; and `task`, its fields. Only this process imports the opener's
  module, so that no side pays for another's libraries or threads.
  """
  # Libraries may print to standard output, so answers go to a copy of it.
  with os.fdopen(os.dup(1), "w", buffering=1) as answers:
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
      answers.write(json.dumps(values) + "\n")

    request = json.loads(sys.stdin.readline())
    try:
      work: Work = _imported(request["opener"])(_imported(request["kind"])(**request["task"]))
      baseline = costs.resident_bytes()
      costs.forget_peak()
      warm_up(work)
    except ImportError as error:
      answer(missing=str(error))
      return
    except UserError as error:
      answer(user_error=str(error))
      return
    answer(ready=True)
    for line in sys.stdin:
      measurement = measure(work, **json.loads(line))
      answer(**dataclasses.asdict(measurement), peak_growth=_growth(baseline), **work.report())


@dataclasses.dataclass(frozen=True)
class Measurement:
  """The cost of some batches.

  Attributes:
    images: Number of images.
    steps: Number of batches.
    seconds: Elapsed time, including simulated steps.
    cpu_seconds: CPU time of the process and its children in that time.
    seconds_waited: The part of `seconds` in which the consumer waited for a batch.
  """

  images: int
  steps: int
  seconds: float
  cpu_seconds: float
  seconds_waited: float


def warm_up(work: Work) -> None:
  """Does the warm-up batches of some work."""
  seen = 0
  while seen < work.warm_up and (images := next(work.batches, None)) is not None:
    seen += images
  work.finish()


def measure(
  work: Work, seconds: float, images: int | None = None, step_seconds: float = 0.0
) -> Measurement:
  """Consumes whole batches and times them; no work is pending at the start or at the end.

  Args:
    work: The work.
    seconds: Minimum duration; at least one batch is consumed.
    images: Minimum number of images, instead of `seconds`.
    step_seconds: Duration of the consumer's step after each batch. It sleeps, like a host whose
      accelerator computes, and leaves all cores to the input.
  """
  # The first batch is not measured: it may have been read ahead before the request, and caches are
  # cold after a pause.
  next(work.batches)
  time.sleep(step_seconds)
  work.finish()
  count = steps = 0
  waited = 0.0
  cpu, start = costs.cpu_seconds(), time.perf_counter()
  while count < images if images else time.perf_counter() - start < seconds:
    asked = time.perf_counter()
    count += next(work.batches)
    waited += time.perf_counter() - asked
    steps += 1
    if step_seconds:
      time.sleep(step_seconds)
  work.finish()
  elapsed = time.perf_counter() - start
  return Measurement(count, steps, elapsed, costs.cpu_seconds() - cpu, waited)


def _imported(reference: str) -> Any:
  module, _, name = reference.partition(":")
  return getattr(importlib.import_module(module), name)


def _growth(baseline: int | None) -> int | None:
  peak = costs.peak_resident_bytes()
  return None if baseline is None or peak is None else max(0, peak - baseline)
