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

  def before(self, step: int) -> None:
    """To be called before the step that follows `step` steps; begins the trace where it is due."""
    if not self._running and step in self._window:
      jax.profiler.start_trace(str(self._folder))
      self._running = True

  def after(self, step: int, result: jax.Array) -> None:
    """To be called after `step` steps; ends the trace with the window, and waits for `result`."""
    if self._running and step not in self._window:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    """Ends the trace if one is being taken."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
