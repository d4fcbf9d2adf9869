"""Learning-rate schedules: pure functions of the step, as optax takes them.

A schedule maps the number of steps done, an int scalar of any type, to the rate of the next step,
float32, or float64 in JAX's x64 mode. For a constant rate, use `optax.constant_schedule`.

optax's `cosine_decay_schedule` and `polynomial_schedule` differ in the last digits: they compute
1 - count / steps, which loses digits near the end, and divide an int32 count in float32 even in x64
mode.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
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


def cosine(
  learning_rate: float, end: int, start: int = 0, end_factor: float = 0.0
) -> optax.Schedule:
  """Half a cosine from `learning_rate` down to `end_factor` times it (arXiv 1608.03983, eq. 5).

  Args:
    learning_rate: Rate up to `start`.
    end: Number of steps done from which on the last rate stays.
    start: Number of steps done at which the rate begins to fall.
    end_factor: The last rate is this times the first.

  Returns:
    A function from the number of steps done (int scalar) to the rate (float scalar).

  Raises:
    ValueError: It would end before it starts.
  """
  _check_span(start, end)

  def schedule(count: jax.typing.ArrayLike) -> jax.Array:
    # (1 + cos(pi t)) / 2 = sin(pi (1 - t) / 2)^2, which keeps its digits where it is near zero.
    share = jnp.sin(jnp.pi / 2 * _fraction_left(count, start, end)) ** 2
    return learning_rate * (end_factor + (1 - end_factor) * share)

  return schedule


def polynomial(
  learning_rate: float, end: int, start: int = 0, end_factor: float = 0.0, power: float = 1.0
) -> optax.Schedule:
  """A power of the share of the steps that is left; with `power` 1 a straight line.

  Args:
    learning_rate: Rate up to `start`.
    end: Number of steps done from which on the last rate stays.
    start: Number of steps done at which the rate begins to fall.
    end_factor: The last rate is this times the first.
    power: The exponent, above 0.

  Returns:
    A function from the number of steps done (int scalar) to the rate (float scalar).

  Raises:
    ValueError: It would end before it starts.
  """
  _check_span(start, end)

  def schedule(count: jax.typing.ArrayLike) -> jax.Array:
    share = _fraction_left(count, start, end) ** power
    return learning_rate * (end_factor + (1 - end_factor) * share)

  return schedule


def linear_warmup(schedule: optax.Schedule, steps: int, factor: float = 0.1) -> optax.Schedule:
  """Another schedule, times a factor that grows to 1 on a straight line (arXiv 1706.02677, 2.2).

  Time is that of the whole training: what the other schedule does at step s it does at step s.

  Args:
    schedule: The other schedule.
    steps: Number of steps done after which it is not changed any more.
    factor: The factor of the first step, in [0, 1].

  Returns:
    A function from the number of steps done (int scalar) to the rate (float scalar).

  Raises:
    ValueError: It would take less than a step, or the factor is out of range.
  """
  if steps < 1:
    raise ValueError(f"steps={steps}: a warm-up takes at least one step")
  if not 0 <= factor <= 1:
    raise ValueError(f"factor={factor}: a warm-up starts between 0 and 1 times the rate")

  def warm(count: jax.typing.ArrayLike) -> jax.Array:
    share = factor + (1 - factor) * (_as_float(jnp.minimum(count, steps)) / steps)
    return schedule(count) * jnp.where(jnp.less(count, steps), share, 1)

  return warm


def _check_span(start: int, end: int) -> None:
  if not 0 <= start < end:
    raise ValueError(f"a schedule from step {start} to step {end} would end before it starts")


def _fraction_left(count: jax.typing.ArrayLike, start: int, end: int) -> jax.Array:
  """Returns the fraction of the steps from start to end that remains, in [0, 1]."""
  return _as_float(end - jnp.clip(count, start, end)) / (end - start)


def _as_float(count: jax.Array) -> jax.Array:
  """Converts a count to JAX's default float, because JAX divides int32 in float32 even in x64 mode.

  Subtract counts before converting them: float32 does not represent all integers above 2**24.
  """
  return count.astype(jnp.result_type(float))
