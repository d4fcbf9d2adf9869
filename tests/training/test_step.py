"""The training step on one device: its mathematics, and that it is pure and traced once."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import models, training
from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training.build import build_run

MODEL = models.create("resnet20", stage_sizes=(1,), width=4, num_classes=3)
DECAY, MOMENTUM, RATE = 1e-2, 0.9, 0.5
OPTIMIZER = training.make_optimizer(
  training.OptimizerConfig(momentum=MOMENTUM, weight_decay=DECAY), lambda _: RATE
)


def view(constants, batch, key):
  del key
  return batch["image"] * constants["scale"], batch["label"]


def batch(weights=(1, 1, 1, 1, 1, 1)):
  generator = np.random.default_rng(0)
  return {
    "image": generator.normal(size=(6, 8, 8, 3)).astype(np.float32),
    "label": np.array([0, 1, 2, 0, 1, 2], np.int32),
    "weight": np.array(weights, np.float32),
  }


@functools.cache
def state():
  create = functools.partial(training.create_state, MODEL, OPTIMIZER, image_shape=(8, 8, 3))
  return jax.jit(create)(jax.random.key(0))


def loss_by_hand(params, arrays):
  variables = {"params": params, "batch_stats": state().batch_stats}
  logits, _ = MODEL.apply(variables, arrays["image"] * 2.0, train=True, mutable=["batch_stats"])
  log_probabilities = jax.nn.log_softmax(logits)[jnp.arange(6), arrays["label"]]
  return -(arrays["weight"] * log_probabilities).sum() / arrays["weight"].sum()


class StepTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_one_step_is_sgd_with_l2_on_the_weighted_mean_loss(self):
    weights = (1, 0, 1, 1, 0, 1)
    arrays = batch(weights)
    step = self.variant(training.make_step(view, MODEL, OPTIMIZER))
    after, sums = step(state(), {"scale": jnp.float32(2)}, arrays, jax.random.key(0))
    loss, gradient = jax.jit(jax.value_and_grad(loss_by_hand))(state().params, arrays)
    np.testing.assert_allclose(sums.loss / sums.weight, loss, rtol=1e-5)
    assert sums.weight == sum(weights)
    assert after.step == 1
    expected = jax.tree.map(lambda w, g: w - RATE * (g + DECAY * w), state().params, gradient)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-4, atol=1e-5)
    changed = jax.tree.map(
      lambda a, b: bool((a != b).any()), after.batch_stats, state().batch_stats
    )
    assert all(jax.tree.leaves(changed))


def test_an_example_of_weight_0_has_no_part_in_the_update_without_batch_norm():
  arrays = batch((1, 1, 1, 1, 1, 0))
  model = MODEL.clone(norm=Identity)  # batch statistics would spread it over the batch
  optimizer = optax.sgd(0.1)
  create = functools.partial(training.create_state, model, optimizer, image_shape=(8, 8, 3))
  first = jax.jit(create)(jax.random.key(0))
  assert first.batch_stats == {}
  step = jax.jit(training.make_step(view, model, optimizer))
  one, _ = step(first, {"scale": 1.0}, arrays, jax.random.key(0))
  arrays["label"][5] = 0
  other, sums = step(first, {"scale": 1.0}, arrays, jax.random.key(0))
  chex.assert_trees_all_equal(one.params, other.params)
  chex.assert_tree_all_finite(other.params)
  assert sums.weight == 5


def Identity(use_running_average, dtype, param_dtype, name):
  del use_running_average, dtype, param_dtype, name
  return lambda x: x


def test_a_whole_run_traces_its_step_and_its_evaluation_once(tmp_path):
  config = training.Config(
    model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
    data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8)),
    batch_size=16,
    length="7 steps",
    log_every="2 steps",
    evaluate_every="3 steps",
    evaluation_batch_size=8,
  )
  run = build_run(config)
  traces = []

  def counted(split):
    def view(*arguments):
      traces.append(split.name)  # Python runs it only while it is traced
      return split.view(*arguments)

    return dataclasses.replace(split, view=view)

  splits = {name: counted(split) for name, split in run.dataset.splits.items()}
  run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, splits=splits))
  assert training.fit(run, tmp_path).step == 7
  assert sorted(traces) == ["train", "validation"]
