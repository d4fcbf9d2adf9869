"""Optimizers against PyTorch's and optax's, step by step in float64."""

import importlib.util

import jax
import numpy as np
import optax
import pytest

from resnet_jax import models
from resnet_jax.training.config import AdamConfig, LarsConfig, OptimizerConfig
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.schedules import stepwise

STEPS, BASE = 12, 0.3
SCHEDULE = stepwise(BASE, (5, 9))  # The rate changes while the velocity is not zero.
needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="no PyTorch")


def random_tree(generator):
  """Names of every kind: kernels, scales, biases, a stage of blocks."""

  def block():
    return {
      "conv1": {"kernel": generator.normal(size=(3, 2))},
      "norm1": {"bias": generator.normal(size=4), "scale": generator.normal(size=4)},
    }

  return {
    "head": {"bias": np.zeros(3), "kernel": generator.normal(size=(2, 3))},
    "stage1": {f"block{i}": block() for i in (1, 2, 3)},
  }


def trajectory(optimizer, params, gradients):
  @jax.jit
  def step(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  state, after = optimizer.init(params), []
  for gradient in gradients:
    params, state = step(params, state, gradient)
    after.append(params)
  return after


def problem():
  generator = np.random.default_rng(0)
  return random_tree(generator), [random_tree(generator) for _ in range(STEPS)]


def require_equal(ours, theirs, rtol=1e-12):
  for mine, other in zip(ours, theirs, strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-14), mine, other)


def torch_trajectory(make, params, gradients):
  """The same with an optimizer of PyTorch's and its MultiStepLR."""
  import torch

  leaves, structure = jax.tree.flatten(params)
  tensors = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in leaves]
  optimizer = make(torch.optim, tensors)
  scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9])
  after = []
  for gradient in gradients:
    for tensor, leaf in zip(tensors, jax.tree.leaves(gradient), strict=True):
      tensor.grad = torch.tensor(np.asarray(leaf))
    optimizer.step()
    scheduler.step()
    after.append(jax.tree.unflatten(structure, [t.detach().numpy().copy() for t in tensors]))
  return after


@needs_torch
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 1e-2), (0.5, 0.0)])
def test_sgd_is_pytorch_s(momentum, decay, nesterov, x64):
  params, gradients = problem()
  config = OptimizerConfig(momentum=momentum, nesterov=nesterov, weight_decay=decay)
  ours = trajectory(make_optimizer(config, SCHEDULE), params, gradients)

  def make(optim, tensors):
    return optim.SGD(tensors, BASE, momentum, weight_decay=decay, nesterov=nesterov)

  require_equal(ours, torch_trajectory(make, params, gradients))


ADAM = OptimizerConfig(
  name="adamw", weight_decay=0.05, adam=AdamConfig(beta1=0.8, beta2=0.95, epsilon=1e-6)
)


@needs_torch
def test_adamw_is_pytorch_s(x64):
  params, gradients = problem()
  ours = trajectory(make_optimizer(ADAM, SCHEDULE), params, gradients)

  def make(optim, tensors):
    return optim.AdamW(tensors, BASE, (0.8, 0.95), 1e-6, weight_decay=0.05)

  require_equal(ours, torch_trajectory(make, params, gradients), rtol=1e-10)


def test_adamw_is_optax_s(x64):
  params, gradients = problem()
  theirs = optax.adamw(SCHEDULE, 0.8, 0.95, 1e-6, weight_decay=0.05)
  ours = trajectory(make_optimizer(ADAM, SCHEDULE), params, gradients)
  require_equal(ours, trajectory(theirs, params, gradients))


def lars(**fields):
  settings = LarsConfig(trust_coefficient=0.02, epsilon=1e-3)
  return OptimizerConfig(name="lars", weight_decay=0.1, lars=settings, **fields)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_optax_s(nesterov, x64):
  params, gradients = problem()
  gradients[3] = jax.tree.map(np.zeros_like, gradients[3])
  params["stage1"]["block1"]["conv1"]["kernel"][:] = 0  # a norm of 0 leaves the plain rate

  def mask(tree):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)

  theirs = optax.lars(
    SCHEDULE,
    weight_decay=0.1,
    weight_decay_mask=mask,
    trust_coefficient=0.02,
    eps=1e-3,
    trust_ratio_mask=mask,
    momentum=0.9,
    nesterov=nesterov,
  )
  config = lars(nesterov=nesterov, undecayed=("*/scale", "*/bias"))
  ours = trajectory(make_optimizer(config, SCHEDULE), params, gradients)
  require_equal(ours, trajectory(theirs, params, gradients))


@pytest.mark.parametrize(
  "config",
  [lars(undecayed=("*/scale",)), ADAM, OptimizerConfig(weight_decay=0.1, clip_norm=0.5)],
  ids=["lars", "adamw", "sgd"],
)
def test_scanned_blocks_learn_as_unrolled_ones(config, x64):
  params, gradients = problem()
  optimizer = make_optimizer(config, SCHEDULE, frozen=("stage1/block1/*",))
  plain = trajectory(optimizer, params, gradients)
  stacked = [models.to_scanned(gradient) for gradient in gradients]
  scanned = trajectory(optimizer, models.to_scanned(params), stacked)
  require_equal([models.to_unrolled(after) for after in scanned], plain)
