"""Functions that Numba compiles at their first call."""

import functools
import hashlib
import pathlib
import pickle
import types
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles a function, which runs without Python's lock.

  The code is kept for the next process beside the module or in the user's cache, where these can be
  written, and else compiled in each process. It is compiled anew where the module has changed, or
  what the function refers to of a function around it; of what it has from other modules, functions
  as well as constants, it is not seen: let it refer to their `digest_of_sources`.
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


def digest_of_sources(*modules: types.ModuleType) -> str:
  """A hash of the sources of modules, so of the functions and constants that they define."""
  digest = hashlib.blake2b(digest_size=8)
  for module in modules:
    assert module.__file__ is not None
    digest.update(pathlib.Path(module.__file__).read_bytes())
  return digest.hexdigest()
