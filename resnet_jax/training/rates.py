"""The learning rate as a part of an optimizer: what of it depends on how training goes.

A schedule knows the step alone. The paper's two rules look at errors too: ResNet-110 starts at a
lower rate until its training error has fallen (section 4.2), and on ImageNet the rate is divided
when the validation error plateaus (section 3.4). Their state is scalars in the optimizer's state,
so it is saved with it, and no rule makes the host wait for the devices.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from resnet_jax.training.config import PlateauConfig


@dataclasses.dataclass(frozen=True)
class ErrorWarmup:
  """A lower rate until the training error has fallen; then the full one, for ever.

  Attributes:
    factor: The rate is multiplied by this meanwhile.
    error: It ends when the moving average of the training error is below this.
    steps: About how many of the latest steps that average is over, at least 1: its weight of the
      past is 1 - 1 / steps. It starts at an error of 1.
  """

  factor: float = 0.1
  error: float = 0.8
  steps: float = 1.0


class RateState(NamedTuple):
  """The state of `scale_by_rate`: scalars, the floats float32, or float64 where JAX has it on.

  Attributes:
    step: Number of steps done, int32.
    rate: Learning rate of the last of them, 0 before the first.
    error: Moving average of the training error, from 1; held once it ended the warm-up.
    scale: What the plateaus so far have multiplied the rate by.
    best: Lowest validation value so far, the largest float before the first.
    bad: Evaluations in a row, int32, that were not better.
    cooldown: Evaluations, int32, for which none is counted yet.
  """

  step: jax.Array
  rate: jax.Array
  error: jax.Array
  scale: jax.Array
  best: jax.Array
  bad: jax.Array
  cooldown: jax.Array


def scale_by_rate(
  schedule: optax.Schedule, warmup: ErrorWarmup | None = None
) -> optax.GradientTransformationExtraArgs:
  """Multiplies updates by minus the learning rate.

  That is the schedule's, times what `observe_validation` made of it, times the warm-up's factor.
  The product is formed in float32 or wider, and has the update's dtype.

  Args:
    schedule: Learning rate by the number of steps done.
    warmup: A warm-up that the training error ends. `update` then needs `error`, that of the batch
      whose gradient it gets: a scalar in [0, 1]. One that is NaN, as of a batch without a readable
      example, is passed over.

  Returns:
    A transformation with the state `RateState`.

  Raises:
    ValueError: In `update`, when a warm-up misses its `error`.
  """

  def init(params: optax.Params) -> RateState:
    del params
    integer, real = jnp.int32, jnp.result_type(float)
    return RateState(
      step=jnp.zeros((), integer),
      rate=jnp.zeros((), real),
      error=jnp.ones((), real),
      scale=jnp.ones((), real),
      best=jnp.full((), jnp.finfo(real).max, real),
      bad=jnp.zeros((), integer),
      cooldown=jnp.zeros((), integer),
    )

  def update(
    updates: optax.Updates,
    state: RateState,
    params: optax.Params | None = None,
    *,
    error: jax.typing.ArrayLike | None = None,
    **extra: Any,
  ) -> tuple[optax.Updates, RateState]:
    del params, extra
    average = state.error
    rate = jnp.asarray(schedule(state.step), state.scale.dtype) * state.scale
    if warmup is not None:
      average = _moving_average(average, error, warmup)
      rate = jnp.where(average < warmup.error, rate, warmup.factor * rate)
    updates = jax.tree.map(lambda leaf: (-rate * leaf).astype(jnp.result_type(leaf)), updates)
    step = optax.safe_increment(state.step)
    return updates, state._replace(step=step, rate=rate, error=average)

  return optax.GradientTransformationExtraArgs(init, update)


def observe_validation(
  opt_state: optax.OptState,
  value: jax.typing.ArrayLike,
  rule: PlateauConfig,
  factor: float = 0.1,
) -> optax.OptState:
  """Lowers the rate if the validation has stopped to improve; to be called once an evaluation.

  A pure function that may be compiled. The rule is that of PyTorch's `ReduceLROnPlateau`: the rate
  is multiplied by `factor` when more than `rule.patience` evaluations in a row were not better
  than the best so far by more than the threshold. A NaN is no improvement.

  Args:
    opt_state: State of an optimizer with a `scale_by_rate` in it.
    value: What should fall, a scalar.
    rule: When it counts as not falling; its `metric` is the caller's to follow.
    factor: Multiplier of the rate, below 1.

  Returns:
    The state, changed in that part.

  Raises:
    ValueError: There is no `scale_by_rate` in the optimizer, or more than one.
  """

  def observe(state: RateState) -> RateState:
    current = jnp.asarray(value, state.best.dtype)
    relative = rule.threshold_mode == "relative"
    goal = state.best * (1 - rule.threshold) if relative else state.best - rule.threshold
    better = current < goal
    bad = jnp.where(better | (state.cooldown > 0), 0, state.bad + 1)
    plateau = bad > rule.patience
    lower = jnp.maximum(state.scale * factor, rule.minimum)
    return state._replace(
      best=jnp.where(better, current, state.best),
      scale=jnp.where(plateau, lower, state.scale),
      bad=jnp.where(plateau, 0, bad),
      cooldown=jnp.where(plateau, rule.cooldown, jnp.maximum(state.cooldown - 1, 0)),
    )

  _rate_state(opt_state)
  return jax.tree.map(
    lambda node: observe(node) if _is_rate(node) else node, opt_state, is_leaf=_is_rate
  )


def last_rate(opt_state: optax.OptState) -> jax.Array:
  """The learning rate of the last step, a scalar; 0 before the first.

  Raises:
    ValueError: There is no `scale_by_rate` in the optimizer, or more than one.
  """
  return _rate_state(opt_state).rate


def _moving_average(
  average: jax.Array, error: jax.typing.ArrayLike | None, warmup: ErrorWarmup
) -> jax.Array:
  """The next average; one that has ended the warm-up is held, so that it ends once."""
  if error is None:
    raise ValueError("a warm-up that the training error ends: update needs error=…")
  past = 1 - 1 / max(1.0, warmup.steps)
  latest = past * average + (1 - past) * jnp.asarray(error, average.dtype)
  return jnp.where((average < warmup.error) | jnp.isnan(latest), average, latest)


def _rate_state(opt_state: optax.OptState) -> RateState:
  found = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_rate) if _is_rate(node)]
  if len(found) != 1:
    raise ValueError(f"{len(found)} scale_by_rate in the optimizer: expected one")
  return found[0]


def _is_rate(node: Any) -> bool:
  return isinstance(node, RateState)
