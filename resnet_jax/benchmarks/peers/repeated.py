"""One step, repeated: the work that the benchmark times on every side."""

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from resnet_jax.benchmarks import costs
from resnet_jax.benchmarks.work import Work

T = TypeVar("T")

_WARM_UP_STEPS = 2


def repeat(
  launch: Callable[[], T],
  wait: Callable[[T], Any],
  loss: Callable[[T], float | None],
  images: int,
  facts: dict[str, Any],
  device_memory: Callable[[], int] = lambda: 0,
  settle: Callable[[], Any] = lambda: None,
) -> Work:
  """Times the first step, which compiles, and returns the repeated step as work.

  Each step is launched while the previous one runs, so that the device does not wait for Python.

  Args:
    launch: Begins a step and returns a handle to it.
    wait: Waits for the step of a handle.
    loss: Returns the loss of a finished step; None in inference.
    images: Number of images per step.
    facts: The side's facts, ready for JSON.
    device_memory: Returns the peak bytes of device memory; 0 if the device has no memory of its
      own, and then the peak resident memory of the process after compiling is reported.
    settle: Waits for everything that steps update.
  """
  begun = time.perf_counter()
  step = launch()
  wait(step)
  settle()
  facts = facts | {"first_step_seconds": time.perf_counter() - begun, "first_loss": loss(step)}
  running = collections.deque([step])

  def batches() -> Iterator[int]:
    while True:
      running.append(launch())
      while len(running) > 2:
        running.popleft()
      wait(running[0])
      yield images

  def finish() -> None:
    wait(running[-1])
    settle()

  def report() -> dict[str, Any]:
    memory = device_memory() or costs.peak_resident_bytes()
    return facts | {"peak_memory_bytes": memory, "last_loss": loss(running[-1])}

  return Work(batches(), _WARM_UP_STEPS * images, finish, report)
