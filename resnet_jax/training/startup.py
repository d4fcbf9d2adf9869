"""The time between a command and its first training step, by phase."""

import time
from collections.abc import Callable
from typing import Any

import jax

# In order. The time before the command's own code runs belongs to none of them.
PHASES = ("imports", "data", "building", "weights", "compiling", "first step")


class StartUp:
  """The durations of the phases of a start.

  Attributes:
    seconds: Duration of each phase that has ended.
  """

  def __init__(self, begun: float | None = None) -> None:
    """Begins the first phase now, or at `begun`, a reading of `time.monotonic`."""
    self.seconds: dict[str, float] = {}
    self._since = time.monotonic() if begun is None else begun

  def ends(self, phase: str) -> None:
    """Ends one of `PHASES` and begins the next."""
    now = time.monotonic()
    self.seconds[phase] = now - self._since
    self._since = now

  def __str__(self) -> str:
    """Formats the line that `parse_phases` reads."""
    return "started: " + ", ".join(f"{name} {took:.2f} s" for name, took in self.seconds.items())


def parse_phases(line: str) -> dict[str, float] | None:
  """Parses the line of a `StartUp` to seconds per phase; returns None for any other line."""
  head, _, phases = line.strip().partition("started: ")
  if head or not phases:
    return None
  found = (phase.removesuffix(" s").rpartition(" ") for phase in phases.split(", "))
  return {name: float(seconds) for name, _, seconds in found}


def announce_first(
  step: Callable[..., Any], start: StartUp, say: Callable[[str], None]
) -> Callable[..., Any]:
  """Returns a training step whose first call announces that it compiles, and reports the start.

  Args:
    step: The step, which compiles at its first call.
    start: The phases so far; "weights" ends now, the others within the first call.
    say: Prints a line.
  """
  called = False
  start.ends("weights")

  def call(*arguments: Any) -> Any:
    nonlocal called
    if called:
      return step(*arguments)
    called = True
    say("compiling the training step …")
    result = step(*arguments)
    start.ends("compiling")
    jax.block_until_ready(result)
    start.ends("first step")
    say(str(start))
    return result

  return call
