"""The learning rate in the optimizer's state: precision, and the warm-up that an error ends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training.rates import ErrorWarmup, last_rate, scale_by_rate
from resnet_jax.training.schedules import stepwise


def rates_of(errors, warmup, schedule=lambda step: 0.5):
  """The rate of each step, from one compiled update."""
  rate = scale_by_rate(schedule, warmup)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(state, error):
    updates, state = rate.update({"w": jnp.ones(2)}, state, error=error)
    return updates["w"], state

  state, used = rate.init({"w": jnp.ones(2)}), []
  for error in errors:
    update, state = step(state, jnp.asarray(error))
    np.testing.assert_array_equal(update, -last_rate(state))
    used.append(float(last_rate(state)))
  return np.array(used), state


def test_the_update_is_minus_the_rate_of_its_step_and_the_rate_is_kept_for_logs():
  used, state = rates_of([1.0] * 4, None, stepwise(0.5, (2,)))
  np.testing.assert_allclose(used, [0.5, 0.5, 0.05, 0.05], rtol=1e-7)
  assert state.step == 4


def test_the_full_rate_comes_once_and_stays():
  generator = np.random.default_rng(0)
  falling = np.clip(np.linspace(1, 0.5, 60) + 0.1 * generator.normal(size=60), 0, 1)
  errors = [*falling, *np.ones(200), *falling]  # it rises again, above where it began
  warmup = ErrorWarmup(factor=0.1, error=0.8, steps=10)
  used, _ = rates_of(errors, warmup)
  # By hand: from 1, 1 - 1/10 of the past and 1/10 of the step's error.
  average, expected = 1.0, None
  for step, error in enumerate(errors):
    average = 0.9 * average + 0.1 * error
    if average < 0.8:
      expected = step
      break
  assert 5 < expected < 60
  np.testing.assert_allclose(used[:expected], 0.05, rtol=1e-6)
  np.testing.assert_allclose(used[expected:], 0.5, rtol=1e-6)


def test_the_warm_up_lasts_while_the_error_does_not_fall():
  used, _ = rates_of([0.9] * 300, ErrorWarmup(factor=0.1, error=0.8, steps=5))
  np.testing.assert_allclose(used, 0.05, rtol=1e-6)


@pytest.mark.parametrize("steps", [0.2, 1.0])
def test_with_batches_larger_than_the_mean_the_batch_alone_decides(steps):
  used, _ = rates_of([0.9, 0.7, 0.9], ErrorWarmup(0.1, 0.8, steps))
  np.testing.assert_allclose(used, [0.05, 0.5, 0.5], rtol=1e-6)


def test_a_batch_without_an_error_is_passed_over():
  used, state = rates_of([0.9, np.nan, np.nan, 0.1, np.nan], ErrorWarmup(0.1, 0.8, 1))
  np.testing.assert_allclose(used, [0.05, 0.05, 0.05, 0.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(state.error, 0.1, rtol=1e-6)


def test_a_warm_up_that_is_told_no_error_says_so():
  rate = scale_by_rate(lambda step: 0.1, ErrorWarmup())
  with pytest.raises(ValueError, match="error="):
    rate.update(jnp.ones(2), rate.init(jnp.ones(2)))


def test_the_warm_up_multiplies_the_schedule():
  used, _ = rates_of([0.9, 0.9, 0.9], ErrorWarmup(0.1, 0.8, 1), stepwise(0.5, (2,)))
  np.testing.assert_allclose(used, [0.05, 0.05, 0.005], rtol=1e-6)


def test_float64_updates_lose_no_digit(x64):
  rate = scale_by_rate(lambda step: 0.1 / (1 + step))
  state = rate.init(jnp.ones(3))
  update = np.array([1 / 3, 1e-300, np.pi])
  for step in range(3):
    scaled, state = jax.jit(rate.update)(update, state)
    np.testing.assert_allclose(scaled, -(0.1 / (1 + step)) * update, rtol=1e-15)
    assert scaled.dtype == last_rate(state).dtype == np.float64


def test_an_update_keeps_its_dtype_and_the_rate_does_not_round_to_it():
  rate = scale_by_rate(lambda step: 0.3)
  update = jnp.ones(2, jnp.bfloat16)
  scaled, state = rate.update(update, rate.init(update))
  assert scaled.dtype == jnp.bfloat16
  np.testing.assert_allclose(last_rate(state), 0.3, rtol=1e-7)


def test_without_a_rate_in_the_optimizer_none_can_be_read():
  with pytest.raises(ValueError, match="0 scale_by_rate"):
    last_rate(optax.adam(0.1).init(jnp.ones(2)))


class RateTest(chex.TestCase):
  """The rule is a pure function, transformed every way."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_the_warm_up_ends_the_same_when_transformed(self):
    rate = scale_by_rate(lambda step: 0.5, ErrorWarmup(0.1, 0.8, 2))
    step = self.variant(lambda state, error: rate.update(jnp.ones(2), state, error=error))
    state, used = rate.init(jnp.ones(2)), []
    for error in (0.9, 0.7, 0.6, 1.0):
      _, state = step(state, jnp.float32(error))
      used.append(float(last_rate(state)))
    np.testing.assert_allclose(used, [0.05, 0.05, 0.5, 0.5], rtol=1e-6)
