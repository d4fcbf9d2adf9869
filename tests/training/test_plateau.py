"""The plateau rule against PyTorch's `ReduceLROnPlateau`, evaluation by evaluation."""

import functools
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training.config import OptimizerConfig, PlateauConfig
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.rates import last_rate, observe_validation, scale_by_rate

BASE, EVALUATIONS = 0.4, 80
PARAMS = {"block1": {"kernel": jnp.ones(2, jnp.float32)}}
OPTIMIZER = make_optimizer(OptimizerConfig(clip_norm=1.0), lambda step: BASE, ("none",))


@functools.cache
def advance(rule, factor):
  """One evaluation and the step after it; the state through its leaves, as a checkpoint does."""

  def run(opt_state, value):
    opt_state = observe_validation(opt_state, value, rule, factor)
    return OPTIMIZER.update(PARAMS, opt_state, PARAMS)[1]

  return jax.jit(run)


def ours(values, rule, factor):
  state, rates = OPTIMIZER.init(PARAMS), []
  for value in values:
    state = advance(rule, factor)(state, value)
    leaves, structure = jax.tree.flatten(state)
    state = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    rates.append(float(last_rate(state)))
  return np.array(rates), state


def random_run(seed):
  """An error that falls, stalls, jumps, and repeats values exactly."""
  generator = np.random.default_rng(seed)
  trend = 0.9 * 0.97 ** np.repeat(np.arange(EVALUATIONS // 4), 4)
  return np.round(trend + generator.normal(scale=0.02, size=EVALUATIONS), 3)


RULES = [
  PlateauConfig(
    patience=patience, threshold=threshold, threshold_mode=mode, cooldown=cooldown, minimum=minimum
  )
  for patience, (threshold, mode), (cooldown, minimum) in itertools.product(
    (0, 3), ((0.0, "relative"), (0.02, "relative"), (0.01, "absolute")), ((0, 0.0), (2, 0.02))
  )
]


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="no PyTorch")
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_rate_is_that_of_pytorch_s_reduce_on_plateau_at_every_step(rule, x64):
  import torch

  for seed, factor in ((0, 0.1), (1, 0.5), (2, 0.5)):
    values = random_run(seed)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
      optimizer,
      factor=factor,
      patience=rule.patience,
      threshold=rule.threshold,
      threshold_mode={"relative": "rel", "absolute": "abs"}[rule.threshold_mode],
      cooldown=rule.cooldown,
      min_lr=rule.minimum * BASE,
      eps=0,
    )
    expected = []
    for value in values:
      scheduler.step(value)
      expected.append(optimizer.param_groups[0]["lr"])
    assert len(set(expected)) > 1
    np.testing.assert_allclose(ours(values, rule, factor)[0], expected, rtol=1e-10)


def test_float32_decides_as_float64():
  rule, values = RULES[-1], random_run(3)
  single, _ = ours(values, rule, 0.5)
  with jax.enable_x64(True):
    double, _ = ours(values, rule, 0.5)
  np.testing.assert_allclose(single, double, rtol=1e-6)


def test_a_nan_counts_as_no_improvement_and_leaves_the_best_as_it_is():
  rule = PlateauConfig(patience=1, threshold=0)
  rates, state = ours([0.5, np.nan, np.nan, 0.4, np.nan, 0.3], rule, 0.1)
  np.testing.assert_allclose(rates / BASE, [1, 1, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)
  found = [leaf for leaf in jax.tree.leaves(state) if np.isclose(leaf, 0.3).all()]
  assert found
  first, _ = ours([np.nan, 0.5, 0.4], rule, 0.1)
  np.testing.assert_allclose(first, BASE, rtol=1e-6)


def test_the_rate_is_not_lowered_below_the_minimum():
  rates, _ = ours([0.5] * 10, PlateauConfig(patience=0, minimum=0.03), 0.1)
  np.testing.assert_allclose(rates[-1], 0.03 * BASE, rtol=1e-6)


def test_nothing_but_the_rate_s_state_changes():
  state = OPTIMIZER.update(PARAMS, OPTIMIZER.init(PARAMS), PARAMS)[1]
  after = observe_validation(state, 0.5, PlateauConfig(), 0.1)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  changed = [
    path
    for (path, old), new in zip(
      jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True
    )
    if not np.array_equal(old, new)
  ]
  assert [jax.tree_util.keystr(path).rsplit(".", 1)[1] for path in changed] == ["best"]


@pytest.mark.parametrize(
  "optimizer",
  [optax.sgd(0.1), optax.chain(scale_by_rate(lambda _: 1.0), scale_by_rate(lambda _: 1.0))],
)
def test_an_optimizer_without_one_rate_is_refused(optimizer):
  with pytest.raises(ValueError, match="expected one"):
    observe_validation(optimizer.init(PARAMS), 0.5, PlateauConfig())
