"""What Orbax lets the interpreter print of a save that failed: `Checkpoints` says it in a line."""

import logging
import sys
from typing import Any


def silence_failed_saves() -> None:
  """Keeps tracebacks of failed saves off standard error; for a process of the command line.

  Orbax logs one, asyncio one for each other array that was under way, and the interpreter one where
  such an array ends after its event loop.
  """
  # absl has to create its logger itself, before `getLogger` below does.
  import absl.logging  # noqa: F401

  logging.getLogger("absl").setLevel(logging.CRITICAL)
  logging.getLogger("asyncio").addFilter(_was_asked_for)
  show = sys.unraisablehook

  def show_others(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      show(unraisable)

  sys.unraisablehook = show_others


def _was_asked_for(record: logging.LogRecord) -> bool:
  return "exception was never retrieved" not in record.getMessage()
