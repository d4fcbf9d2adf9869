"""The optimizer against its equations in float64 numpy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.errors import UserError
from resnet_jax.training.config import AdamConfig, LarsConfig, OptimizerConfig
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.rates import last_rate, scale_by_rate

RATES = [0.1, 0.1, 0.1, 0.01, 0.01]  # The rate changes while the velocity is not zero.


def schedule(count):
  return jnp.where(count < 3, 0.1, 0.01)


def random_tree(generator):
  return {"kernel": generator.normal(size=(3, 2)), "norm": {"bias": generator.normal(size=4)}}


def reference(params, gradients, momentum, nesterov, weight_decay):
  """All parameters after each step: v = m v + (g + d w); w = w - rate v."""
  velocity, after = jax.tree.map(np.zeros_like, params), []
  for rate, gradient in zip(RATES, gradients, strict=True):
    decayed = jax.tree.map(lambda g, w: g + weight_decay * w, gradient, params)
    velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, decayed)
    step = velocity
    if nesterov:  # One step ahead along the new velocity.
      step = jax.tree.map(lambda v, g: momentum * v + g, velocity, decayed)
    params = jax.tree.map(lambda w, s, rate=rate: w - rate * s, params, step)
    after.append(params)
  return after


@pytest.mark.parametrize(
  ("momentum", "weight_decay", "nesterov"),
  [
    (0.9, 1e-4, False),
    (0.9, 1e-4, True),
    (0.5, 0.3, False),
    (0.5, 0.3, True),
    (0.0, 0.1, False),
  ],
)
def test_five_steps_are_momentum_with_decay_in_the_gradient(x64, momentum, weight_decay, nesterov):
  generator = np.random.default_rng(0)
  params = random_tree(generator)
  gradients = [random_tree(generator) for _ in RATES]
  config = OptimizerConfig(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
  optimizer = make_optimizer(config, schedule)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  expected = reference(params, gradients, momentum, nesterov, weight_decay)
  state = jax.jit(optimizer.init)(params)
  for gradient, after in zip(gradients, expected, strict=True):
    params, state = step(params, state, gradient)
    chex.assert_trees_all_close(params, after, rtol=1e-13)


def test_the_defaults_are_the_papers():
  config = OptimizerConfig()
  assert (config.learning_rate, config.momentum, config.weight_decay) == (0.1, 0.9, 1e-4)
  assert not config.nesterov


def test_weight_decay_reaches_every_parameter_without_a_gradient():
  params = {"kernel": jnp.ones((2, 2)), "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
  optimizer = make_optimizer(OptimizerConfig(weight_decay=0.5), lambda count: 0.1)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  for update in jax.tree.leaves(updates):
    np.testing.assert_allclose(update, -0.05, rtol=1e-6)


def one_update(config, params, gradient, frozen=()):
  optimizer = make_optimizer(config, lambda _: 0.5, frozen)
  return optimizer.update(gradient, optimizer.init(params), params)[0]


NAMED = {
  "head": {"bias": np.ones(3, np.float32), "kernel": np.full((2, 3), 2, np.float32)},
  "norm": {"scale": np.ones(2, np.float32)},
}
ZERO = jax.tree.map(np.zeros_like, NAMED)
DECAYS = [
  ("sgd", {}),
  ("sgd", {"weight_decay_form": "decoupled"}),
  ("lars", {"lars": LarsConfig(trust_coefficient=1.0, exclude=("*",))}),
  ("adamw", {}),
]


@pytest.mark.parametrize(("name", "fields"), DECAYS)
def test_what_is_undecayed_has_no_decay_with_any_optimizer(name, fields):
  config = OptimizerConfig(name=name, weight_decay=0.1, undecayed=("*/scale", "*/bias"), **fields)
  updates = one_update(config, NAMED, ZERO)
  np.testing.assert_allclose(updates["head"]["kernel"], -0.5 * 0.1 * 2, rtol=1e-6)
  assert not np.any(updates["head"]["bias"])
  assert not np.any(updates["norm"]["scale"])


@pytest.mark.parametrize(("name", "fields"), DECAYS)
def test_what_is_frozen_does_not_move_whatever_its_gradient_and_decay(name, fields):
  config = OptimizerConfig(name=name, weight_decay=0.1, clip_norm=1.0, **fields)
  wild = {"head": jax.tree.map(lambda leaf: leaf * 1e6, NAMED["head"]), "norm": NAMED["norm"]}
  updates = one_update(config, NAMED, wild, frozen=("head/*",))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates["head"]))
  # It has no part in the norm either: the rest is updated as if it were not there.
  alone = one_update(config, {"norm": NAMED["norm"]}, {"norm": NAMED["norm"]})
  np.testing.assert_allclose(updates["norm"]["scale"], alone["norm"]["scale"], rtol=1e-6)


@pytest.mark.parametrize(("limit", "share"), [(2.5, 0.5), (5.0, 1.0), (7.0, 1.0)])
def test_the_raw_gradient_is_clipped_to_the_norm_over_all_parameters(limit, share, x64):
  gradient = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, 4.0])}
  params = {"a": np.full(2, 10.0), "b": np.full(2, -10.0)}
  updates = one_update(OptimizerConfig(weight_decay=0.2, clip_norm=limit), params, gradient)
  expected = jax.tree.map(lambda g, w: -0.5 * (share * g + 0.2 * w), gradient, params)
  chex.assert_trees_all_close(updates, expected, rtol=1e-14)


def test_decoupled_decay_stays_out_of_the_velocity(x64):
  generator = np.random.default_rng(0)
  params = random_tree(generator)
  gradients = [random_tree(generator) for _ in RATES]
  config = OptimizerConfig(momentum=0.7, weight_decay=0.2, weight_decay_form="decoupled")
  optimizer = make_optimizer(config, schedule)
  state, velocity, by_hand = optimizer.init(params), jax.tree.map(np.zeros_like, params), params
  for rate, gradient in zip(RATES, gradients, strict=True):
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    velocity = jax.tree.map(lambda v, g: 0.7 * v + g, velocity, gradient)
    by_hand = jax.tree.map(lambda w, v, r=rate: w - r * (v + 0.2 * w), by_hand, velocity)
    chex.assert_trees_all_close(params, by_hand, rtol=1e-13)


# Each setting, other than its default, with each optimizer: None where it acts, else what is said.
SETTINGS = {
  "momentum": 0.5,
  "nesterov": True,
  "weight_decay": 0.3,
  "undecayed": ("head/*",),
  "clip_norm": 1e-3,
  "adam": AdamConfig(epsilon=1.0),
  "lars": LarsConfig(trust_coefficient=2.0),
  "weight_decay_form": "decoupled",
}
REFUSED = {
  "sgd": {"adam": "adam.epsilon", "lars": "lars.trust_coefficient"},
  "lars": {"adam": "adam.epsilon", "weight_decay_form": "decoupled"},
  "adamw": {"momentum": "momentum", "nesterov": "nesterov", "lars": "lars.trust_coefficient"},
}


def two_updates(config):
  optimizer = make_optimizer(config, lambda _: 0.5)
  state, gradient = optimizer.init(NAMED), jax.tree.map(lambda leaf: leaf + 0.1, NAMED)
  for scale in (1.0, 3.0):
    gradient = jax.tree.map(lambda leaf, s=scale: s * leaf, gradient)
    updates, state = optimizer.update(gradient, state, NAMED)
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates)])


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("field", SETTINGS)
def test_a_setting_acts_or_is_refused_by_name(name, field):
  config = OptimizerConfig(name=name, **{field: SETTINGS[field]})
  if field in REFUSED[name]:
    with pytest.raises(UserError, match=REFUSED[name][field]):
      make_optimizer(config, lambda _: 0.5)
    return
  plain = OptimizerConfig(name=name)
  if (name, field) == ("adamw", "clip_norm"):  # Adam forgets a common scale, but for epsilon
    plain = dataclasses.replace(plain, adam=AdamConfig(epsilon=1.0))
    config = dataclasses.replace(config, adam=AdamConfig(epsilon=1.0))
  same = (name, field) == ("adamw", "weight_decay_form")  # the only one that it has
  if field == "undecayed":
    plain, config = (dataclasses.replace(c, weight_decay=0.3) for c in (plain, config))
  assert np.allclose(two_updates(plain), two_updates(config), rtol=1e-6) == same


def test_every_setting_is_in_the_table():
  others = {"name", "learning_rate", "learning_rate_batch"}
  assert {f.name for f in dataclasses.fields(OptimizerConfig)} - others == set(SETTINGS)


def test_adamw_refuses_l2():
  with pytest.raises(UserError, match="l2"):
    make_optimizer(OptimizerConfig(name="adamw", weight_decay_form="l2"), lambda _: 0.5)


def test_a_rate_takes_the_place_of_a_schedule():
  params = {"w": np.ones(2)}
  for rate in (schedule, scale_by_rate(schedule)):
    optimizer = make_optimizer(OptimizerConfig(), rate)
    _, state = optimizer.update(params, optimizer.init(params), params, error=0.5)
    np.testing.assert_allclose(last_rate(state), 0.1, rtol=1e-7)


class OptimizerTest(chex.TestCase):
  """The update is a pure function, transformed every way."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_the_update_is_the_same_when_transformed(self):
    config = OptimizerConfig(momentum=0.9, weight_decay=0.3)
    optimizer = make_optimizer(config, schedule)
    generator = np.random.default_rng(0)
    start, gradient = (
      jax.tree.map(lambda leaf: leaf.astype(np.float32), random_tree(generator)) for _ in range(2)
    )
    params, state = start, optimizer.init(start)
    update = self.variant(optimizer.update)
    for after in reference(start, [gradient] * len(RATES), 0.9, False, 0.3):
      updates, state = update(gradient, state, params)
      params = optax.apply_updates(params, updates)
      chex.assert_trees_all_close(params, after, rtol=1e-5, atol=1e-6)
