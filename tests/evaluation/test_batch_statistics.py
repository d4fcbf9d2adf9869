"""Re-estimated batch statistics against float64 NumPy, and against training mode."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax import devices, models
from resnet_jax.data import Split, positions, training_batches
from resnet_jax.evaluation.batch_statistics import (
  batch_moments,
  combine_moments,
  measured,
  reestimate,
)

SIZE, FEATURES, EPSILON = 40, 3, 1e-5


class TwoLayers(nn.Module):
  """Two batch norms, so that the second one sees what the first one's groups do."""

  norm: Any = "batch"
  frozen_bn: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    norm = functools.partial(self.norm, use_running_average=not train)
    x = nn.relu(norm(name="first")(nn.Dense(4, use_bias=False, name="dense1")(images)))
    x = norm(name="second")(nn.Dense(5, use_bias=False, name="dense2")(x))
    return x.mean((1, 2))


def images():
  generator = np.random.default_rng(0)
  return generator.normal(3, 2, (SIZE, 2, 3, FEATURES)).astype(np.float32)


def table_view(constants, batch, key):
  del key
  return constants["images"][batch["example"]], jnp.zeros(len(batch["example"]), jnp.int32)


def split():
  return Split("train", SIZE, {"images": images()}, positions, table_view)


def by_hand(variables, batches, group):
  """Mean and biased variance over all examples of what each norm is given, in float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
  first, second = [], []
  for batch in batches:
    for start in range(0, len(batch), group):
      x = images()[batch[start : start + group]].astype(np.float64) @ params["dense1"]["kernel"]
      first.append(x)
      x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON)
      second.append(np.maximum(x, 0) @ params["dense2"]["kernel"])
  return {
    name: {"mean": np.mean(given, (0, 1, 2, 3)), "var": np.var(given, (0, 1, 2, 3))}
    for name, given in (("first", first), ("second", second))
  }


@pytest.mark.parametrize("group", [1, 2, 4, 8, None])
@pytest.mark.parametrize("batches", [1, 7])  # Seven batches of eight are more than an epoch.
def test_they_are_those_of_all_examples_each_normalised_by_its_group(group, batches):
  norm = functools.partial(models.BatchNorm, axis_name=devices.AXIS, group=group)
  model = TwoLayers(norm)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 3, FEATURES)))
  found = reestimate(
    model, split(), devices.replicate(variables), batches, 8, seed=3, key=jax.random.key(0)
  )
  stream = training_batches(split(), 3, 8, 0)
  expected = by_hand(variables, [next(stream)["example"] for _ in range(batches)], group or 8)
  for name, node in expected.items():
    for kind, value in node.items():
      assert found[name][kind].dtype == np.float32
      np.testing.assert_allclose(found[name][kind], value, rtol=2e-5, atol=2e-6)


def test_moments_of_batches_combine_to_those_of_the_whole():
  values = np.random.default_rng(0).normal(1e4, 1, (9, 16, 5))  # Where squares would cancel.
  moments = [{"norm": {"mean": part.mean(0), "var": part.var(0)}} for part in values]
  found = combine_moments(moments)["norm"]
  whole = values.reshape(-1, 5)
  np.testing.assert_allclose(found["mean"], whole.mean(0), rtol=1e-14)
  np.testing.assert_allclose(found["var"], whole.var(0), rtol=1e-10)
  with pytest.raises(ValueError, match="no batches"):
    combine_moments([])


@pytest.mark.parametrize("fields", [{}, {"scan": True}, {"order": "full_preactivation"}])
def test_of_one_batch_evaluation_gives_what_training_gives(fields):
  model = models.create("resnet20", stage_sizes=(3, 1), width=4, **fields)
  batch = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  network = measured(model)

  @jax.jit
  def computed(variables, batch):
    moments = batch_moments(network, variables, batch)
    trained, _ = model.apply(variables, batch, train=True, mutable=["batch_stats"])
    evaluated = model.apply({**variables, "batch_stats": moments}, batch, train=False)
    return moments, trained, evaluated

  moments, trained, evaluated = computed(variables, batch)
  assert jax.tree.structure(moments) == jax.tree.structure(variables["batch_stats"])
  np.testing.assert_allclose(evaluated, trained, rtol=1e-4, atol=1e-4)


def test_nothing_is_dropped_out_for_it():
  model = models.create("resnet20", stage_sizes=(1,), width=4, addition="dropout")
  batch = jnp.ones((2, 8, 8, 3))
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  batch_moments(measured(model), variables, batch)  # Without a key for dropout.


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"norm": None}, "no batch norm"),
    ({"norm": lambda use_running_average, **rest: nn.GroupNorm(2, **rest)}, "no batch norm"),
    ({"frozen_bn": True}, "frozen_bn"),
  ],
)
def test_networks_without_batch_statistics_of_their_own_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    measured(models.create("resnet20", **fields))
