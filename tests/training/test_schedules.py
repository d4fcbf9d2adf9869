"""The paper's schedule, step by step."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.training.schedules import stepwise

# Steps done, and the rate of the next one (section 4.2).
PAPER = [
  (0, 0.1),
  (1, 0.1),
  (31_999, 0.1),
  (32_000, 0.01),
  (32_001, 0.01),
  (47_999, 0.01),
  (48_000, 0.001),
  (48_001, 0.001),
  (63_999, 0.001),
]


@pytest.mark.parametrize(("step", "rate"), PAPER)
def test_the_rate_is_divided_at_32k_and_48k_iterations_exactly(step, rate):
  actual = stepwise(0.1, (32_000, 48_000))(step)
  assert actual.dtype == np.float32
  np.testing.assert_allclose(actual, rate, rtol=2e-7)


def test_the_factor_multiplies_at_each_boundary():
  schedule = stepwise(8.0, (2, 3, 5), factor=0.5)
  assert [float(schedule(step)) for step in range(7)] == [8, 8, 4, 2, 2, 1, 1]


def test_the_rate_is_constant_without_boundaries():
  schedule = stepwise(0.3, ())
  np.testing.assert_allclose([schedule(step) for step in (0, 10**6)], 0.3)


@pytest.mark.parametrize("boundaries", [(3, 2), (3, 3), (1, 5, 4)])
def test_boundaries_that_do_not_increase_are_refused_with_their_numbers(boundaries):
  with pytest.raises(ValueError, match="each must be later") as error:
    stepwise(0.1, boundaries)
  assert str(boundaries) in str(error.value)


class ScheduleTest(chex.TestCase):
  """The schedule as it runs in the step: of a traced number of steps."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_the_schedule_is_the_same_when_transformed(self):
    schedule = self.variant(stepwise(0.1, (32_000, 48_000)))
    for step, rate in PAPER:
      np.testing.assert_allclose(schedule(jnp.int32(step)), rate, rtol=2e-7)
