"""Scanned and rematerialised blocks: the same function, less to compile, less to keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models import create, to_scanned, to_unrolled
from resnet_jax.training import create_state

BASIC = {"stage_sizes": (2, 3), "width": 4, "num_classes": 3}
DOUBLE = {"dtype": "float64", "param_dtype": "float64"}
VARIANTS = [
  ("resnet20", {}),
  ("resnet20", {"shortcut": "C"}),
  ("plain20", {}),
  ("resnet20", {"order": "norm_after_addition"}),
  ("resnet20", {"order": "relu_before_addition", "transition": "last"}),
  ("resnet20", {"order": "relu_only_preactivation"}),
  ("preact_resnet110", {"transition": "last"}),
  ("preact_resnet164", {}),
  ("resnet50", {"squeeze_excitation": 4, "output_stride": 4}),
  ("resnet20", {"addition": "exclusive_gate"}),
  ("resnet20", {"norm": None, "use_bias": True, "addition": "scaled"}),
]


def images(size=16):
  return np.random.default_rng(0).normal(size=(4, size, size, 3))


def random_variables(model, x):
  """Variables of which none is trivial."""
  generator = np.random.default_rng(1)

  def draw(path, leaf):
    value = generator.normal(0, 0.4, leaf.shape)
    return np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value

  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  return jax.tree_util.tree_map_with_path(draw, variables)


def train(model, variables, x):
  """Loss, statistics and gradient of a training step, and the logits of an evaluation."""

  def loss(params):
    logits, updated = model.apply({**variables, "params": params}, x, train=True, mutable=True)
    return jnp.sin(logits).sum(), updated.get("batch_stats", {})

  (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
  return value, {"params": gradient, "batch_stats": statistics}, model.apply(variables, x)


def assert_close(actual, expected, tolerance=1e-11):
  def check(a, e):
    np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * (1e-30 + np.abs(e).max()))

  jax.tree.map(check, actual, expected)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
@pytest.mark.parametrize("remat", [False, True])
def test_scanned_blocks_are_the_same_function(x64, name, overrides, remat):
  model = create(name, **BASIC, **DOUBLE, **overrides)
  scanned = model.clone(scan=True, remat=remat)
  x = images()
  variables = random_variables(model, x)
  stacked = to_scanned(variables, model.transition)
  expected = jax.jit(functools.partial(train, model))(variables, x)
  loss, trees, logits = jax.jit(functools.partial(train, scanned))(stacked, x)
  assert_close((loss, to_unrolled(trees), logits), expected)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_a_scanned_network_takes_what_to_scanned_gives(name, overrides):
  model = create(name, **BASIC, **overrides)

  def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), images())

  stacked = jax.eval_shape(lambda v: to_scanned(v, model.transition), shapes(model))
  scanned = shapes(model.clone(scan=True))
  assert jax.tree.structure(stacked) == jax.tree.structure(scanned)
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, scanned)


@pytest.mark.parametrize("transition", ["first", "last"])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1, 4), (11, 3)])
def test_the_layouts_are_inverse_on_variables_and_states(sizes, transition):
  model = create("resnet20", **BASIC | {"stage_sizes": sizes}, transition=transition)
  optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
  shape = jax.eval_shape(
    functools.partial(create_state, model, optimizer, image_shape=(16, 16, 3)), jax.random.key(0)
  )
  generator = np.random.default_rng(0)
  state = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype("f4"), shape)
  for tree in (state, state.variables, state.params, state.opt_state):
    stacked = to_scanned(tree, transition)
    back = to_unrolled(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    again = to_scanned(stacked, transition)
    jax.tree.map(np.testing.assert_array_equal, again, stacked)


def test_blocks_keep_their_order_when_they_are_stacked():
  blocks = {f"block{i}": {"conv1": {"kernel": np.full((1,), i)}} for i in range(1, 13)}
  stacked = to_scanned({"stage1": blocks})["stage1"]
  assert list(stacked) == ["block1", "blocks"]
  assert stacked["blocks"]["conv1"]["kernel"].ravel().tolist() == list(range(2, 13))
  assert list(to_unrolled({"stage1": stacked})["stage1"]) == list(blocks)


def test_arrays_on_the_host_stay_there():
  model = create("resnet20", **BASIC)
  stacked = to_scanned(random_variables(model, images()))
  for leaf in jax.tree.leaves(to_unrolled(jax.device_get(stacked))):
    assert isinstance(leaf, np.ndarray)


def gradient_program(model, x):
  """The compiled gradient of a training step."""
  variables = jax.eval_shape(model.init, jax.random.key(0), x)

  def loss(variables, x):
    logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return logits.sum()

  return jax.jit(jax.grad(loss)).lower(variables, x)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_remat_is_the_same_function(x64, name, overrides):
  model = create(name, **BASIC, **DOUBLE, **overrides)
  x = images()
  variables = random_variables(model, x)
  plain, again = (
    jax.jit(functools.partial(train, m))(variables, x) for m in (model, model.clone(remat=True))
  )
  assert_close(again, plain)


def test_remat_of_scanned_blocks_takes_less_than_half_of_the_memory():
  # Of unrolled ones XLA's CPU compiler merges the second computation with the first again.
  model = create("resnet20", stage_sizes=(12,), width=8, scan=True)
  x = jax.ShapeDtypeStruct((16, 32, 32, 3), "float32")
  kept, again = (
    gradient_program(m, x).compile().memory_analysis().temp_size_in_bytes
    for m in (model, model.clone(remat=True))
  )
  print(f"{kept / 1e6:.1f} MB, with remat {again / 1e6:.1f} MB")
  assert again < kept / 2


def test_a_scanned_program_does_not_grow_with_depth():
  x = jax.ShapeDtypeStruct((8, 32, 32, 3), "float32")
  lengths = [
    len(gradient_program(create(name, scan=True), x).as_text())
    for name in ("resnet20", "resnet1202")
  ]
  assert lengths[1] < 1.1 * lengths[0]
