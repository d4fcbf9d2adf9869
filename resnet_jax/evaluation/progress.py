"""Progress of scoring on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

import tqdm

# Minimum time between two plain lines.
_SECONDS = 10.0


class ScoringProgress:
  """Progress over images, and over the programs that are compiled for them.

  Args:
    images: Number of images over all passes.
    programs: Number of programs to compile; announced if there are several.
    seconds: Minimum time between two plain lines.
  """

  def __init__(self, images: int, programs: int, seconds: float = _SECONDS):
    self._programs = programs
    self._compiled = 0
    self._seconds = seconds
    self._next_line = time.monotonic() + seconds
    if programs > 1:
      _say(
        f"compiling {programs} programs, one for each image shape; a larger --quantum needs fewer"
      )
    self._bar = tqdm.tqdm(
      total=images,
      unit=" images",
      unit_scale=True,
      dynamic_ncols=True,
      leave=False,
      disable=not sys.stderr.isatty(),
    )
    self._done, self._start = 0, time.monotonic()

  def compiling(self) -> None:
    """Shows that one more program is about to be compiled."""
    self._compiled += 1
    self._bar.set_postfix_str(f"compiling program {self._compiled} of {self._programs}")
    self._line()

  def advance(self, images: int) -> None:
    """Shows that another `images` images are done."""
    self._done += images
    self._bar.set_postfix_str("", refresh=False)
    self._bar.update(images)
    self._line()

  def _line(self) -> None:
    now = time.monotonic()
    if not self._bar.disable or now < self._next_line:
      return
    self._next_line = now + self._seconds
    rate = self._done / (now - self._start)
    left = (
      f"{tqdm.tqdm.format_interval((self._bar.total - self._done) / rate)} left" if rate else ""
    )
    programs = f"program {self._compiled} of {self._programs}" if self._programs > 1 else ""
    parts = (f"{self._done} of {self._bar.total} images", f"{rate:,.1f} images/s", programs, left)
    _say("  ".join(filter(None, parts)))

  def __enter__(self) -> "ScoringProgress":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._bar.close()


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
