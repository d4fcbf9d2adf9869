"""Functions that Numba compiles at their first call."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles a function, which runs without Python's lock.

  The code is kept for the next process beside the module or in the user's cache, where these can be
  written, and else compiled in each process. What a function has from other modules, functions as
  well as constants, is not seen to have changed: it has its Numba functions from its own alone.
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
    except (OSError, EOFError, pickle.UnpicklingError):
      # The disk is full, or what was kept is damaged.
      kept = numba.njit(nogil=True)(function)
      return kept(*arguments)

  return call
