"""Checks of a network's fields and input, made before anything is traced."""

from typing import Any, get_args

import jax
import jax.numpy as jnp

FLOATS = ("float32", "bfloat16", "float16", "float64")


def check_choice(name: str, value: Any, choices: Any) -> None:
  """Raises a ValueError unless a value is one of a `Literal`, or of a tuple."""
  allowed = choices if isinstance(choices, tuple) else get_args(choices)
  if not any(value is choice or (value == choice and value is not True) for choice in allowed):
    raise ValueError(f"{name}={value!r}: expected one of {allowed}")


def check_integer(name: str, value: Any, at_least: int) -> None:
  """Raises a ValueError unless a value is an integer and large enough."""
  if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
    kind = {0: "an integer, 0 or larger", 1: "a positive integer"}.get(at_least)
    raise ValueError(f"{name}={value!r}: expected {kind or f'an integer, at least {at_least}'}")


def check_flag(name: str, value: Any) -> None:
  """Raises a ValueError unless a value is True or False."""
  if not isinstance(value, bool):
    raise ValueError(f"{name}={value!r}: expected True or False")


def check_number(name: str, value: Any, above: float, below: float) -> None:
  """Raises a ValueError unless a value is a number in an open interval."""
  if not isinstance(value, int | float) or isinstance(value, bool) or not above < value < below:
    raise ValueError(f"{name}={value!r}: expected a number between {above} and {below}")


def check_sizes(name: str, value: Any) -> None:
  """Raises a ValueError unless a value is a tuple of positive integers."""
  sizes = value if isinstance(value, tuple) else ()
  if not sizes or not all(type(size) is int and size > 0 for size in sizes):
    raise ValueError(f"{name}={value!r}: expected a tuple of positive integers")


def check_dtype(name: str, value: Any) -> None:
  """Raises a ValueError unless a value names a floating-point dtype that networks compute in."""
  try:
    known = jnp.dtype(value).name in FLOATS
  except TypeError:
    known = False
  if not known:
    raise ValueError(f"{name}={value!r}: expected one of {FLOATS}")


def check_images(images: jax.Array, smallest: int) -> None:
  """Raises a ValueError unless an array can be a batch of images of a network.

  Args:
    images: What the network was called with.
    smallest: Number of rows and columns that it needs at least.
  """
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
