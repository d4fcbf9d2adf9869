"""Learning-rate schedules: pure functions of the step, as optax takes them."""

import itertools
from collections.abc import Sequence

import optax


def stepwise(
  learning_rate: float, boundaries: Sequence[int], factor: float = 0.1
) -> optax.Schedule:
  """The paper's schedule: the rate is multiplied by `factor` at each boundary.

  For CIFAR-10 0.1, divided by 10 at 32,000 and 48,000 iterations (section 4.2).

  Args:
    learning_rate: Rate before the first boundary.
    boundaries: Numbers of steps done; the step after that many is the first with the new rate.
    factor: Multiplier at each boundary.

  Returns:
    A function from the number of steps done (int scalar) to the rate (float scalar).

  Raises:
    ValueError: The boundaries do not increase, or begin before the first step.
  """
  if any(boundary < 1 for boundary in boundaries):
    raise ValueError(f"boundaries={tuple(boundaries)}: each must be at least one step")
  if any(after <= before for before, after in itertools.pairwise(boundaries)):
    raise ValueError(f"boundaries={tuple(boundaries)}: each must be later than the one before")
  return optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))
