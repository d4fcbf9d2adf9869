"""A side whose device works in the background, a known time for each step."""

import concurrent.futures
import dataclasses
import time

from resnet_jax.benchmarks.peers.repeated import repeat
from resnet_jax.benchmarks.work import Work


@dataclasses.dataclass(frozen=True)
class SleepingTask:
  """How long a step takes, in seconds."""

  step_seconds: float


def work(task: SleepingTask) -> Work:
  """Three images in each step; to launch one takes no time."""
  device = concurrent.futures.ThreadPoolExecutor(1)
  return repeat(
    launch=lambda: device.submit(time.sleep, task.step_seconds),
    wait=concurrent.futures.Future.result,
    loss=lambda step: None,
    images=3,
    facts={},
  )
