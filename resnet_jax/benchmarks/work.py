"""What a side of a benchmark gives to be measured."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


def _nothing() -> None:
  """The `finish` of work that is done when its batch is given."""


@dataclasses.dataclass(frozen=True)
class Work:
  """Work that a side repeats, batch by batch.

  Attributes:
    batches: Endless; each item is the number of images in the batch whose work was done, or begun
      where a device works in the background.
    warm_up: Number of images before the first measurement: they fill caches, compile, and start
      threads and workers.
    finish: Waits for all work that was begun. Every measurement ends with it.
    report: Further values for the answer to a measurement, as JSON has them.
  """

  batches: Iterator[int]
  warm_up: int = 0
  finish: Callable[[], None] = _nothing
  report: Callable[[], dict[str, Any]] = dict
