"""Durations in steps, epochs or examples, as configs say them."""

import re

from resnet_jax.errors import UserError

_FORM = re.compile(
  r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*(step|epoch|example)s?\s*"
)


def parse_steps(duration: str, field: str, batch_size: int, train_examples: int) -> int:
  """A duration as a number of steps, at least 1.

  Args:
    duration: A number and a unit, for example "30 epochs"; epochs and examples may be fractions of
      a step, and are rounded to the nearest.
    field: Name of the config's field, for the message.
    batch_size: Examples a step.
    train_examples: Examples an epoch.

  Raises:
    UserError: It is not a duration.
  """
  match = _FORM.fullmatch(duration)
  if not match:
    raise UserError(
      f'{field}={duration!r} is no duration: write a number and a unit, for example "64000 steps", '
      '"30 epochs" or "8192000 examples"'
    )
  number, unit = float(match[1]), match[2]
  examples = number * {"step": batch_size, "epoch": train_examples, "example": 1}[unit]
  if examples == float("inf"):
    raise UserError(f"{field}={duration!r} is too long")
  steps = round(examples / batch_size)
  if steps < 1:
    raise UserError(f"{field}={duration!r} is less than one step of {batch_size} examples")
  return steps
