"""The work of a side, batch by batch, for the benchmark to time."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


def _nothing() -> None:
  """Does nothing: `finish` of work that is done when its batch is yielded."""


@dataclasses.dataclass(frozen=True)
class Work:
  """Work that a side repeats.

  Attributes:
    batches: Endless; does one batch per item, or dispatches it to a device, and yields its number
      of images.
    warm_up: Number of images before the first measurement, to fill caches, compile, and start
      threads and workers.
    finish: Waits for all work that was begun, at the end of every measurement.
    report: Returns further values for the result of a measurement, ready for JSON.
  """

  batches: Iterator[int]
  warm_up: int = 0
  finish: Callable[[], None] = _nothing
  report: Callable[[], dict[str, Any]] = dict
