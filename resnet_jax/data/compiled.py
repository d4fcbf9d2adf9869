"""Functions that Numba compiles at their first call."""

import functools
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles a function, which runs without Python's lock.

  The code is kept for the next process beside the module or in the user's cache, where these can be
  written, and else compiled in each process. What a function has from other modules is not seen to
  have changed, so it calls compiled functions of its own module only.
  """
  try:
    kept = numba.njit(nogil=True, cache=True)(function)
  except RuntimeError:  # There is no place to keep it.
    return numba.njit(nogil=True)(function)

  @functools.wraps(function)
  def call(*arguments: Any) -> Any:
    nonlocal kept
    try:
      return kept(*arguments)
    except OSError:  # The disk is full, or nearly.
      kept = numba.njit(nogil=True)(function)
      return kept(*arguments)

  return call
