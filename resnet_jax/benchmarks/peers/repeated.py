"""One step, repeated: what every side of the benchmark gives to be measured."""

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
  """Does the first step, which compiles, and times it.

  One step is launched while the one before runs, so that a device does not wait for Python.

  Args:
    launch: Begins a step; its result stands for it.
    wait: Waits for that step.
    loss: The loss of a step that is done; None in inference.
    images: Number of images in a step.
    facts: Of the side, as JSON has them.
    device_memory: Most bytes of the device's memory in use so far; 0 where the device has none of
      its own: then the process's resident memory is reported, without that of compiling.
    settle: Waits for all that steps have changed.
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
