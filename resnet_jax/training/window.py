"""Training metrics between two records of them."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping

import jax

from resnet_jax.evaluation.metrics import MetricSums, summarize

# Steps that may be under way on the devices before the host waits for the oldest: enough to keep
# them busy, few enough that their batches do not pile up in memory.
STEPS_IN_FLIGHT = 4

_NOTHING = {field.name: 0.0 for field in dataclasses.fields(MetricSums)}


class Window:
  """Training metrics summed since the last record of them, and the speed meanwhile."""

  def __init__(self, sums: Mapping[str, float] | None = None):
    """Begins with nothing, or goes on from what `sums` gave."""
    self._sums = dict(sums or _NOTHING)
    self._pending: list[MetricSums] = []
    self._compiled = False
    self._steps, self._seconds = 0, 0.0
    self._running_since = 0.0

  def add(self, sums: MetricSums) -> None:
    """Counts one step; waits for an earlier one if too many are under way."""
    self._pending.append(sums)
    if not self._compiled:  # the first step of a process does not count for the speed
      jax.block_until_ready(sums)
      self._compiled, self._running_since = True, time.monotonic()
      return
    self._steps += 1
    if len(self._pending) > STEPS_IN_FLIGHT:
      jax.block_until_ready(self._pending[-1 - STEPS_IN_FLIGHT])

  def sums(self) -> dict[str, float]:
    """The fields of `MetricSums` so far, for a checkpoint; waits for all steps under way."""
    self._collect()
    return dict(self._sums)

  def close(self) -> tuple[dict[str, float], float]:
    """The means of the window, and its steps a second (0 if none was timed); a new one begins."""
    with self.pause():
      rate = self._steps / self._seconds if self._steps else 0.0
      values = summarize(MetricSums(**self._sums))  # type: ignore[arg-type]
      self._sums, self._steps, self._seconds = dict(_NOTHING), 0, 0.0
    return values, rate

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Time within does not count as training; begins once all steps under way are done."""
    self._collect()
    self._seconds += time.monotonic() - self._running_since
    yield
    self._running_since = time.monotonic()

  def _collect(self) -> None:
    for sums in jax.device_get(self._pending):
      for name in self._sums:
        self._sums[name] += float(getattr(sums, name))
    self._pending = []
