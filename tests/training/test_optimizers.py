"""The optimizer against its equations in float64 numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training.config import OptimizerConfig
from resnet_jax.training.optimizers import make_optimizer

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


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 1e-4), (0.5, 0.3), (0.0, 0.1)])
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
