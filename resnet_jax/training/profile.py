"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

import pathlib

import jax


class Profile:
  """Takes a trace of a window of steps; none where the window has passed."""

  def __init__(self, folder: pathlib.Path, start: int | None, steps: int):
    """Prepares it.

    Args:
      folder: Where it is written to.
      start: Number of steps done when the window begins; None for no trace.
      steps: Its length.
    """
    self._folder = folder
    self._window = range(0) if start is None else range(start, start + steps)
    self._running = False

  def turns(self, step: int) -> bool:
    """Whether the trace begins or ends before the step that follows `step` steps."""
    return self._running != (step in self._window)

  def turn(self) -> None:
    """Begins the trace, or ends it; no step should be under way."""
    if self._running:
      self.close()
    else:
      jax.profiler.start_trace(str(self._folder))
      self._running = True

  def close(self) -> None:
    """Ends the trace if one is being taken."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
