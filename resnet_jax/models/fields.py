"""Checks of fields and inputs, whose errors are one line: the field, its value, what is right.

Those of single values return them, NumPy's scalars as Python's.
"""

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

DtypeName = Literal["float32", "bfloat16", "float16", "float64"]
FLOATS = get_args(DtypeName)


def check_choice(name: str, value: Any, choices: Any) -> Any:
  """One of a `Literal`, or of a tuple; raises a ValueError for anything else."""
  allowed = choices if isinstance(choices, tuple) else get_args(choices)
  for choice in allowed:
    if value is choice or (value == choice and value is not True):
      return choice
  raise ValueError(f"{name}={value!r}: expected one of {allowed}")


def check_integer(name: str, value: Any, at_least: int) -> int:
  """An integer that is large enough; raises a ValueError for anything else."""
  if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < at_least:
    kind = {0: "an integer, 0 or larger", 1: "a positive integer"}.get(at_least)
    raise ValueError(f"{name}={value!r}: expected {kind or f'an integer, at least {at_least}'}")
  return operator.index(value)


def check_flag(name: str, value: Any) -> bool:
  """True or False; raises a ValueError for anything else."""
  if not isinstance(value, bool | np.bool_):
    raise ValueError(f"{name}={value!r}: expected True or False")
  return bool(value)


def check_number(name: str, value: Any) -> float:
  """A finite number; raises a ValueError for anything else."""
  number = _real(value)
  if not math.isfinite(number):
    raise ValueError(f"{name}={value!r}: expected a finite number")
  return number


def check_fraction(name: str, value: Any) -> float:
  """A number in [0, 1); raises a ValueError for anything else."""
  number = _real(value)
  if not 0 <= number < 1:
    raise ValueError(f"{name}={value!r}: expected a number in [0, 1)")
  return number


def check_sizes(name: str, value: Any) -> tuple[int, ...]:
  """A tuple of positive integers; raises a ValueError for anything else."""
  try:
    if isinstance(value, tuple) and value:
      return tuple(check_integer(name, size, 1) for size in value)
  except ValueError:
    pass  # The message is of the whole tuple.
  raise ValueError(f"{name}={value!r}: expected a tuple of positive integers")


def check_dtype(name: str, value: Any) -> str:
  """The name of a floating-point dtype that networks compute in; raises a ValueError for others."""
  try:
    known = "" if value is None else jnp.dtype(value).name  # NumPy takes None for float64.
  except TypeError:
    known = ""
  if known not in FLOATS:
    raise ValueError(f"{name}={value!r}: expected one of {FLOATS}")
  return known


def set_checked(module: nn.Module, check: Callable[..., Any], *names: str, **limits: Any) -> None:
  """Sets fields to what a check makes of them; those that are None by default may be None.

  Args:
    module: The network, before it is initialised.
    check: One of the above: `check(name, value, **limits)`.
    *names: The fields.
    **limits: Passed on.

  Raises:
    ValueError: The check does.
  """
  for name in names:
    value = getattr(module, name)
    if value is not None or getattr(type(module), name, ...) is not None:
      setattr(module, name, check(name, value, **limits))


def check_precision(**dtypes: str) -> None:
  """Raises a ValueError for float64 where JAX would compute in float32 instead."""
  for name, dtype in dtypes.items():
    if dtype == "float64" and jax.dtypes.canonicalize_dtype(dtype) != dtype:
      raise ValueError(
        f"{name}='float64': JAX computes in float32 unless told otherwise by "
        "jax.config.update('jax_enable_x64', True), or JAX_ENABLE_X64=1 in the environment"
      )


def check_factory(name: str, value: Any) -> None:
  """Raises a ValueError unless a value can be called to make modules."""
  if not callable(value) or isinstance(value, nn.Module):
    raise ValueError(
      f"{name}={said(value)}: expected a factory of modules, a class or functools.partial of one"
    )


def check_function(name: str, value: Any) -> None:
  """Raises a ValueError unless a value can be called with an array."""
  if not callable(value) or (isinstance(value, type) and issubclass(value, nn.Module)):
    raise ValueError(
      f"{name}={said(value)}: expected a function of an array, or a module that is made already"
    )


def check_part(
  module: nn.Module,
  x: jax.Array,
  *,
  positive: Sequence[str] = (),
  factories: Sequence[str] = (),
  optional: Sequence[str] = (),
  functions: Sequence[str] = (),
) -> None:
  """Checks fields of a part of a network, and its input, where it is called.

  Args:
    module: The part.
    x: What it was called with.
    positive: Its fields that are positive integers.
    factories: Those that make modules.
    optional: Those that make modules, or are None.
    functions: Those that are called with arrays.

  Raises:
    ValueError: A field is something else, or the input not (N, H, W, C).
  """
  for name in positive:
    check_integer(name, getattr(module, name), 1)
  for name in (*factories, *optional):
    if name not in optional or getattr(module, name) is not None:
      check_factory(name, getattr(module, name))
  for name in functions:
    check_function(name, getattr(module, name))
  if jnp.ndim(x) != 4:
    raise ValueError(f"input of shape {jnp.shape(x)}: {type(module).__name__} expects (N, H, W, C)")


def check_images(images: jax.Array, smallest: int) -> None:
  """Raises a ValueError unless an array can be a batch of images of a network.

  Args:
    images: What the network was called with.
    smallest: Number of rows and columns that it needs at least.
  """
  if not hasattr(images, "dtype"):
    raise ValueError(f"images of type {type(images).__name__}: expected an array (N, H, W, C)")
  shape = jnp.shape(images)
  if len(shape) != 4:
    raise ValueError(f"images of shape {shape}: expected (N, H, W, C)")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images of dtype {images.dtype}: expected floats, preprocessed")
  if min(shape[1:3]) < smallest:
    raise ValueError(
      f"images of {shape[1]}x{shape[2]} pixels (shape {shape}, read as N, H, W, C): this network "
      f"divides them by {smallest}, so at least {smallest}x{smallest} are needed"
    )
  if shape[3] == 0:
    raise ValueError(f"images of shape {shape}: expected at least one channel")


def _real(value: Any) -> float:
  """A number as Python's; not a number, where it is none."""
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return float(value) if is_number else math.nan


def said(value: Any) -> str:
  """A value in one short line: modules and functions say more of themselves than helps."""
  if isinstance(value, nn.Module):
    return f"{type(value).__name__}(…)"
  return value.__name__ if isinstance(value, type) else repr(value)
