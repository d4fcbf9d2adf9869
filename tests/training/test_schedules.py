"""Schedules step by step: the paper's, and the others against PyTorch's."""

import importlib.util
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training.averages import advance_average
from resnet_jax.training.config import PlateauConfig
from resnet_jax.training.rates import (
  ErrorWarmup,
  last_rate,
  observe_validation,
  scale_by_rate,
)
from resnet_jax.training.schedules import cosine, linear_warmup, polynomial, stepwise

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


def rates(schedule, steps):
  """The rate of every step, of a traced number of steps, as in training."""
  return jax.jit(jax.vmap(schedule))(jnp.arange(steps))


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


def test_a_warm_up_grows_on_a_line_and_then_changes_nothing(x64):
  actual = rates(linear_warmup(stepwise(0.4, (6, 9)), steps=4, factor=0.25), 12)
  shares = [0.25, 0.4375, 0.625, 0.8125, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
  np.testing.assert_allclose(actual, 0.4 * np.array(shares), rtol=1e-15)


@pytest.mark.parametrize("schedule", [cosine, polynomial])
def test_a_decay_lasts_from_its_start_to_its_end_and_stays_there(schedule, x64):
  actual = np.asarray(rates(schedule(0.8, end=30, start=10, end_factor=0.125), 40))
  np.testing.assert_array_equal(actual[:11], 0.8)
  assert (np.diff(actual[10:31]) < 0).all()
  np.testing.assert_allclose(actual[20], 0.45, rtol=1e-15)  # half of the way in the middle
  np.testing.assert_allclose(actual[30:], 0.1, rtol=1e-15)


def test_a_cosine_keeps_its_digits_to_the_end_in_float32():
  steps = 100_000
  left = np.arange(1, 100)
  actual = jax.vmap(cosine(0.1, steps))(jnp.asarray(steps - left))
  np.testing.assert_allclose(actual, 0.1 * np.sin(np.pi / 2 * left / steps) ** 2, rtol=1e-5)
  assert cosine(0.1, steps)(steps) == 0


def test_the_power_is_that_of_the_share_that_is_left(x64):
  actual = rates(polynomial(0.3, end=10, power=2.5), 10)
  np.testing.assert_allclose(actual, 0.3 * (1 - np.arange(10) / 10) ** 2.5, rtol=1e-14)


@pytest.mark.parametrize(
  "make",
  [
    lambda: cosine(0.1, end=5, start=5),
    lambda: polynomial(0.1, end=5, start=6),
    lambda: cosine(0.1, end=0),
    lambda: linear_warmup(cosine(0.1, 5), 0),
    lambda: linear_warmup(cosine(0.1, 5), 2, factor=1.5),
    lambda: stepwise(0.1, (0, 3)),
  ],
)
def test_a_schedule_that_cannot_be_is_refused(make):
  with pytest.raises(ValueError, match=r"before it starts|warm-up|at least one step"):
    make()


class ScheduleTest(chex.TestCase):
  """The schedule as it runs in the step: of a traced number of steps."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_the_schedule_is_the_same_when_transformed(self):
    schedule = self.variant(stepwise(0.1, (32_000, 48_000)))
    for step, rate in PAPER:
      np.testing.assert_allclose(schedule(jnp.int32(step)), rate, rtol=2e-7)


TORCH = {
  "stepwise": (
    stepwise(0.3, (13, 40, 41), 0.2),
    lambda lr, optimizer: lr.MultiStepLR(optimizer, [13, 40, 41], 0.2),
  ),
  "linear warm-up": (
    linear_warmup(stepwise(0.3, (13, 40)), 10, 0.1),
    lambda lr, optimizer: lr.ChainedScheduler(
      [lr.LinearLR(optimizer, 0.1, total_iters=10), lr.MultiStepLR(optimizer, [13, 40])]
    ),
  ),
  "cosine": (
    cosine(0.3, 60, end_factor=0.05),
    lambda lr, optimizer: lr.CosineAnnealingLR(optimizer, 60, eta_min=0.015),
  ),
  "cosine behind a warm-up": (
    linear_warmup(cosine(0.3, 60, start=7), 7, 0.01),
    lambda lr, optimizer: lr.SequentialLR(
      optimizer,
      [lr.LinearLR(optimizer, 0.01, total_iters=7), lr.CosineAnnealingLR(optimizer, 53)],
      [7],
    ),
  ),
  "polynomial": (
    polynomial(0.3, 50, power=1.7),
    lambda lr, optimizer: lr.PolynomialLR(optimizer, 50, power=1.7),
  ),
}


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="no PyTorch")
@pytest.mark.filterwarnings("ignore")  # SequentialLR uses what PyTorch itself deprecates
@pytest.mark.parametrize("name", TORCH)
def test_every_step_has_the_rate_of_pytorch_s_schedule(name, x64):
  import torch

  ours, theirs = TORCH[name]
  optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
  scheduler = theirs(torch.optim.lr_scheduler, optimizer)
  expected = []
  for _ in range(60):
    expected.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    scheduler.step()
  np.testing.assert_allclose(rates(ours, 60), expected, rtol=1e-10, atol=1e-15)


# Each schedule, and its formula of one number of steps done, for Python's float64.
FORMULAS = {
  "constant": (optax.constant_schedule(0.3), lambda done: 0.3),
  "stepwise": (
    stepwise(0.3, (7, 19, 23), 0.3),
    lambda done: 0.3 * 0.3 ** sum(done >= boundary for boundary in (7, 19, 23)),
  ),
  "cosine": (
    cosine(0.3, 31, 6, 0.07),
    lambda done: 0.3 * (0.07 + 0.93 * math.sin(math.pi / 2 * fraction_left(done, 6, 31)) ** 2),
  ),
  "cosine to zero": (
    cosine(0.3, 37),
    lambda done: 0.3 * math.sin(math.pi / 2 * fraction_left(done, 0, 37)) ** 2,
  ),
  "line": (polynomial(0.3, 37), lambda done: 0.3 * fraction_left(done, 0, 37)),
  "polynomial": (
    polynomial(0.3, 31, 6, 0.07, 2.7),
    lambda done: 0.3 * (0.07 + 0.93 * fraction_left(done, 6, 31) ** 2.7),
  ),
  "warm-up": (
    linear_warmup(optax.constant_schedule(0.3), 11, 0.13),
    lambda done: 0.3 * (0.13 + 0.87 * done / 11 if done < 11 else 1),
  ),
  "warm-up before a cosine": (
    linear_warmup(cosine(0.3, 37, 11), 11, 0.0),
    lambda done: 0.3 * min(1, done / 11) * math.sin(math.pi / 2 * fraction_left(done, 11, 37)) ** 2,
  ),
}
DONE = (0, 1, 5, 6, 7, 10, 11, 12, 18, 19, 22, 23, 29, 30, 31, 36, 37, 45)


def fraction_left(done, start, end):
  return min(max(end - done, 0), end - start) / (end - start)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("wide", "bound"), [(True, 1e-15), (False, 4e-7)])
def test_a_schedule_has_the_precision_of_jax_whatever_the_count_s_type(name, wide, bound):
  schedule, formula = FORMULAS[name]
  expected = [formula(done) for done in DONE]
  traced = jax.jit(schedule)
  with jax.enable_x64(wide):
    dtype = np.float64 if wide else np.float32
    for kind in (int, np.int32, np.int64, jnp.int32, jnp.int64):
      for function in (schedule, traced):
        found = [jnp.asarray(function(kind(done))) for done in DONE]
        assert name == "constant" or {rate.dtype for rate in found} == {np.dtype(dtype)}
        np.testing.assert_allclose(found, expected, rtol=bound, err_msg=f"{kind} {function}")
    found = traced(jnp.asarray(DONE, jnp.int32))
    np.testing.assert_allclose(np.broadcast_to(found, len(DONE)), expected, rtol=bound)


def test_counts_beyond_the_integers_of_float32_are_told_apart():
  end = 2**26
  found = [float(polynomial(1.0, end)(jnp.int32(end - left))) for left in (1, 2, 3, 5)]
  np.testing.assert_allclose(found, [left / end for left in (1, 2, 3, 5)], rtol=2e-7)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_rate_of_every_step_is_float64_where_jax_has_it_on(name, x64):
  schedule, formula = FORMULAS[name]
  rate = scale_by_rate(schedule, ErrorWarmup(0.21, 0.8, 3.0))
  rule, state = PlateauConfig(patience=0), rate.init(jnp.ones(1))
  update = jax.jit(lambda state, error: rate.update(jnp.ones(1), state, error=error)[1])
  observe = jax.jit(lambda state: observe_validation(state, 0.5, rule, 0.37))
  average, scale = 1.0, 1.0
  for step in range(40):
    if step % 9 == 0:  # The first evaluation is the best, and each further one a plateau.
      state = observe(state)
      scale = 0.37 ** (step // 9)
    state = update(state, jnp.float32(0.75))
    if average >= 0.8:
      average = (1 - 1 / 3) * average + (1 - (1 - 1 / 3)) * 0.75
    expected = formula(step) * scale * (0.21 if average >= 0.8 else 1)
    assert last_rate(state).dtype == np.float64
    np.testing.assert_allclose(last_rate(state), expected, rtol=2e-15)
  assert average < 0.8 and state.step.dtype == np.int32


def test_the_decay_of_an_average_is_float64_where_jax_has_it_on(x64):
  average, expected = {"w": jnp.ones(())}, 1.0
  advance = jax.jit(
    lambda average, step: advance_average(average, {"w": jnp.zeros(())}, step, 0.97)
  )
  for step in range(300):
    average = advance(average, jnp.int32(step))
    expected *= min(0.97, (1 + step) / (10 + step))
  np.testing.assert_allclose(average["w"], expected, rtol=1e-13)
