"""Equal blocks as one loop, and activations computed again: the same functions.

`test_compiled_gradients.py` compares networks whose activations are computed again.
"""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from nontrivial import random_variables

from resnet_jax.models import (
  BasicBlock,
  BatchNorm,
  ResNet,
  Stage,
  create,
  responses,
  to_scanned,
  to_unrolled,
)
from resnet_jax.models.platforms import for_platform
from resnet_jax.training import TrainState

# Each value of each field at least once, and those together that the loop could mix up.
NETWORKS = {
  "paper": {},
  "norm after addition": {
    "order": "norm_after_addition",
    "shortcut": "B",
    "addition": "exclusive_gate",
    "addition_parameters": (-1.0,),
    "transition": "last",
  },
  "ReLU before addition": {
    "order": "relu_before_addition",
    "shortcut": "C",
    "addition": "scaled",
    "addition_parameters": (0.7, 0.4),
    "squeeze_excitation": 2,
  },
  "ReLU only": {"order": "relu_only_preactivation", "shortcut": "C", "transition": "last"},
  "pre-activated bottlenecks": {
    "order": "full_preactivation",
    "shortcut": "B",
    "block": "bottleneck",
    "groups": 2,
    "stride_in": "3x3",
    "addition": "shortcut_gate",
    "addition_parameters": (-1.0,),
    "transition": "last",
  },
  "pre-activated plain": {"order": "full_preactivation", "shortcut": None, "stem": "imagenet"},
  "dilated without norm": {"output_stride": 1, "shortcut": "B", "norm": None, "use_bias": True},
}


def network(stage_sizes=None, **fields):
  """Its second stage has two blocks that are scanned."""
  stage_sizes = stage_sizes or ((1, 4) if fields.get("transition") == "last" else (1, 3))
  defaults = {"width": 4, "stem": "cifar", "shortcut": "A", "num_classes": 3}
  return ResNet(stage_sizes, **(defaults | {"dtype": "float64"} | fields))


def images(size=6, batch=4):
  return np.random.default_rng(0).normal(size=(batch, size, size, 3))


def training_step(model, variables, x):
  """Logits, new statistics, and gradients by parameters and images."""

  @jax.jit
  def step(variables, x):
    def loss(params, x):
      logits, updated = model.apply(
        {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
      )
      return jnp.sin(logits).sum(), (logits, updated)

    gradients, (logits, updated) = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)
    of_params, of_x = gradients
    return {"logits": logits, "updated": updated, "of_params": of_params, "of_x": of_x}

  return step(variables, x)


def assert_relatively_close(actual, expected, tolerance=1e-12):
  """Each array to `tolerance` of the largest value of its kind."""

  def check(a, e):
    assert a.shape == e.shape
    assert np.abs(a - e).max() <= tolerance * max(np.abs(e).max(), 1e-3)

  jax.tree.map(check, actual, expected)


def shapes_of(tree):
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_scanned_network_is_the_unrolled_one(x64, name):
  fields = NETWORKS[name]
  transition = fields.get("transition", "first")
  x = images(8 if fields.get("stem") == "imagenet" else 6)
  unrolled = network(**fields)
  variables = random_variables(unrolled, x)
  stacked = to_scanned(variables, transition)
  assert "blocks" in stacked["params"]["stage2"]
  expected = training_step(unrolled, variables, x)
  assert np.abs(expected["logits"]).max() > 1e-3
  found = training_step(unrolled.clone(scan=True), stacked, x)
  assert_relatively_close(to_unrolled(found), expected)


def test_a_scanned_network_evaluates_as_the_unrolled_one(x64):
  fields = NETWORKS["norm after addition"]
  unrolled, x = network(**fields), images()
  variables = random_variables(unrolled, x)
  stacked = to_scanned(variables, fields["transition"])
  expected = jax.jit(functools.partial(unrolled.apply, return_features=True))(variables, x)
  scanned = unrolled.clone(scan=True)
  assert_relatively_close(scanned.apply(stacked, x, return_features=True), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_scanned_network_has_the_variables_of_the_unrolled_one_stacked(name):
  fields = NETWORKS[name]
  x = jnp.zeros((1, 16, 16, 3))
  shapes = [
    jax.eval_shape(
      network((2, 4, 1), scan=scan, dtype="float32", **fields).init, jax.random.key(0), x
    )
    for scan in (False, True)
  ]
  transition = fields.get("transition", "first")
  stacked = jax.eval_shape(functools.partial(to_scanned, transition=transition), shapes[0])
  assert shapes_of(stacked) == shapes_of(shapes[1])
  assert jax.tree.structure(stacked) == jax.tree.structure(shapes[1])
  back = jax.eval_shape(to_unrolled, shapes[1])
  assert shapes_of(back) == shapes_of(shapes[0])


@pytest.mark.parametrize(
  ("transition", "names"),
  [
    ("first", [{"block1"}, {"block1", "blocks"}, {"block1", "blocks"}]),
    ("last", [{"block1"}, {"block1", "block2"}, {"block1", "blocks", "block4"}]),
  ],
)
def test_what_is_scanned_are_the_blocks_that_are_always_alike(transition, names):
  model = network((1, 2, 4), scan=True, transition=transition, dtype="float32")
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
  assert [set(params[f"stage{i}"]) for i in (1, 2, 3)] == names
  lengths = [
    params[stage]["blocks"]["conv1"]["kernel"].shape[0]
    for stage in ("stage2", "stage3")
    if "blocks" in params[stage]
  ]
  assert lengths == {"first": [1, 3], "last": [2]}[transition]


def test_scanned_blocks_start_each_otherwise_and_alike_in_distribution():
  model = network((6,), width=16, scan=True, dtype="float32")
  variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  blocks = variables["params"]["stage1"]["blocks"]
  for conv in ("conv1", "conv2"):
    kernels = np.asarray(blocks[conv]["kernel"], np.float64)
    assert kernels.shape == (5, 3, 3, 16, 16)
    deviations = kernels.std((1, 2, 3, 4))
    # The relative standard error of a deviation of n normal values is sqrt(1 / 2n).
    np.testing.assert_allclose(deviations, np.sqrt(2 / (9 * 16)), rtol=4 / np.sqrt(2 * 9 * 256))
    assert len({kernel.tobytes() for kernel in kernels}) == 5
  np.testing.assert_array_equal(blocks["norm1"]["scale"], np.ones((5, 16)))


@pytest.mark.parametrize("transition", ["first", "last"])
def test_layouts_turn_states_of_optimizers_and_of_training(transition):
  # Every kind of state: counts, momenta, two moments, and averages.
  transform = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9),
    optax.adamw(1e-3),
    optax.ema(0.9),
  )
  model = network((1, 4), transition=transition, dtype="float32")
  x = images(8).astype(np.float32)
  variables = jax.tree.map(jnp.float32, random_variables(model, x))

  @jax.jit
  def state_of(variables):
    # A step, or all of the state is zeros, which no mistake would show in.
    state = transform.init(variables["params"])
    _, state = transform.update(variables["params"], state, variables["params"])
    return TrainState(jnp.int32(7), variables["params"], variables["batch_stats"], state)

  state = state_of(variables)
  scanned = to_scanned(state, transition)
  assert isinstance(scanned, TrainState)
  assert scanned.step == 7
  assert "blocks" in scanned.params["stage2"]
  assert "blocks" in scanned.batch_stats["stage2"]
  # What an optimizer makes of the parameters stacked, but for the rounding of their norm.
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7),
    scanned,
    state_of(to_scanned(variables, transition)),
  )
  back = to_unrolled(scanned)
  assert jax.tree.structure(back) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, back, state)
  again = to_scanned(back, transition)
  assert jax.tree.structure(again) == jax.tree.structure(scanned)
  jax.tree.map(np.testing.assert_array_equal, again, scanned)


def test_layouts_leave_alone_what_is_converted_already_or_has_no_stages():
  scanned = {"stage1": {"block1": {"a": jnp.zeros(2)}, "blocks": {"a": jnp.zeros((3, 2))}}}
  assert shapes_of(to_scanned(scanned)) == shapes_of(scanned)
  unrolled = to_unrolled(scanned)
  assert list(unrolled["stage1"]) == ["block1", "block2", "block3", "block4"]
  assert shapes_of(to_unrolled(unrolled)) == shapes_of(unrolled)
  other = {"stage1": {"conv1": {"kernel": jnp.ones(3)}}, "head": jnp.ones(2), "empty": {}}
  for convert in (to_scanned, to_unrolled):
    assert shapes_of(convert(other)) == shapes_of(other)
    assert convert(jnp.ones(2)).shape == (2,)


def test_layouts_keep_the_order_of_more_than_nine_blocks():
  blocks = {f"block{i}": {"a": np.full((2,), i, np.float32)} for i in range(1, 13)}
  scanned = to_scanned({"params": {"stage1": blocks}})
  stacked = scanned["params"]["stage1"]["blocks"]["a"]
  np.testing.assert_array_equal(stacked[:, 0], np.arange(2, 13))
  # As jax returns it, with sorted keys.
  sorted_back = jax.jit(to_unrolled)(scanned)["params"]["stage1"]
  jax.tree.map(np.testing.assert_array_equal, sorted_back, blocks)


@pytest.mark.parametrize("name", ["Stage_0", "encoder", None])
def test_layouts_convert_stages_wherever_they_stand(name):
  class Encoder(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, x):
      norm = functools.partial(BatchNorm, use_running_average=True)
      block = functools.partial(BasicBlock, norm=norm)
      given = {} if name == "Stage_0" else {"name": name}
      return Stage(block, 3, 6, 2, norm=norm, scan=self.scan, **given)(x)

  kind = Encoder if name else functools.partial(Stage, BasicBlock, 3, 6, 2)
  x = images().astype(np.float32)
  variables = kind().init(jax.random.key(0), x)
  scanned = to_scanned(variables)
  apply = [
    functools.partial(kind(scan=scan).apply, mutable=["batch_stats"]) for scan in (False, True)
  ]
  np.testing.assert_allclose(apply[1](scanned, x)[0], apply[0](variables, x)[0], atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, to_unrolled(scanned), variables)
  stage = scanned["params"] if name is None else scanned["params"][name]
  assert set(stage) == {"block1", "blocks"}


def test_layouts_keep_the_numbers_of_blocks_where_the_first_has_no_such_variables():
  blocks = {f"block{i}": {"norm2": {"mean": np.full(2, i)}} for i in (2, 3)}
  scanned = to_scanned({"batch_stats": {"stage1": blocks}})
  np.testing.assert_array_equal(
    scanned["batch_stats"]["stage1"]["blocks"]["norm2"]["mean"], [[2, 2], [3, 3]]
  )
  back = to_unrolled(scanned)["batch_stats"]["stage1"]
  jax.tree.map(np.testing.assert_array_equal, back, blocks)


def test_layouts_refuse_variables_of_several_seeds_that_vmap_converts():
  model, x = network(dtype="float32"), images().astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 3)
  for net, convert in ((model, to_scanned), (model.clone(scan=True), to_unrolled)):
    one = jax.eval_shape(net.init, keys[0], x)
    several = jax.eval_shape(jax.vmap(net.init, (0, None)), keys, x)
    with pytest.raises(ValueError, match=rf"jax\.vmap\(models\.{convert.__name__}\)"):
      jax.eval_shape(convert, several)
    expected = jax.tree.map(lambda leaf: (3, *leaf.shape), jax.eval_shape(convert, one))
    found = jax.eval_shape(jax.vmap(convert), several)
    assert jax.tree.map(jnp.shape, found) == expected


def test_layouts_refuse_blocks_that_are_not_alike_and_unknown_transitions():
  model, x = network((1, 4), transition="last", dtype="float32"), images()
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  with pytest.raises(ValueError, match="transition='first': block2 and block4 of a stage differ"):
    jax.eval_shape(to_scanned, variables)
  with pytest.raises(ValueError, match="transition='middle': expected one of"):
    to_scanned({}, "middle")


@pytest.mark.parametrize("scan", [False, True])
def test_variables_of_the_other_layout_are_refused_with_what_converts_them(scan):
  model, x = network(scan=scan, dtype="float32"), images()
  other = jax.eval_shape(model.clone(scan=not scan).init, jax.random.key(0), x)
  converts = "to_scanned" if scan else "to_unrolled"
  with pytest.raises(ValueError, match=f"stage2 with scan={scan}, .*models.{converts} converts"):
    jax.eval_shape(model.apply, other, x)


def test_unrolling_keeps_arrays_of_numpy():
  scanned = {
    "stage1": {"block1": {"a": np.zeros(2)}, "blocks": {"a": np.arange(6.0).reshape(3, 2)}}
  }
  for block in to_unrolled(scanned)["stage1"].values():
    assert isinstance(block["a"], np.ndarray)
    assert block["a"].dtype == np.float64


@pytest.mark.parametrize(
  ("name", "remat"), [("norm after addition", False), ("pre-activated plain", True)]
)
def test_responses_are_the_same_of_either_layout(x64, name, remat):
  fields = NETWORKS[name]
  # More than nine blocks: their names sort otherwise than their numbers.
  model = network((1, 12), **fields)
  x = images(8 if fields.get("stem") == "imagenet" else 4, 2)
  variables = random_variables(model, x)
  stacked = to_scanned(variables, fields.get("transition", "first"))
  expected = responses(model, variables, x, train=True)
  found = responses(model.clone(scan=True, remat=remat), stacked, x, train=True)
  assert list(found) == list(expected)
  assert_relatively_close(found, expected)


@pytest.mark.parametrize("scan", [False, True])
def test_every_block_and_every_example_has_a_dropout_of_its_own(scan):
  # Without norms and activations nothing but dropout makes a zero.
  parts = {"shortcut": "A", "norm": None, "addition": "dropout", "activation": "identity"}
  model, x = network((4,), dtype="float32", **parts), images().astype(np.float32)
  variables = jax.tree.map(np.float32, random_variables(model, x))
  _, updated = model.clone(scan=scan).apply(
    to_scanned(variables) if scan else variables,
    x,
    train=True,
    mutable=["intermediates"],
    rngs={"dropout": jax.random.key(1)},
    capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
  )
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(updated["intermediates"])]
  dropped = np.concatenate([(leaf == 0).ravel() for leaf in leaves]).reshape(4 * len(x), -1)
  values = dropped.shape[1]
  correlations = np.corrcoef(dropped) - np.eye(len(dropped))
  assert np.abs(correlations).max() < 5 / np.sqrt(values)
  assert np.abs(dropped.mean(1) - 0.5).max() < 2.5 / np.sqrt(values)


def test_dropout_of_shortcuts_is_computed_again_with_the_mask_it_had(x64):
  # Of an identity branch: the gradient by the images shows the masks that the output has.
  model = network((3,), shortcut="A", norm=None, addition="dropout", activation="identity")
  x = images()
  variables = random_variables(model, x)
  for scan in (False, True):
    weights = to_scanned(variables) if scan else variables

    def step(remat, x, scan=scan, weights=weights):
      net = model.clone(scan=scan, remat=remat)
      rngs = {"dropout": jax.random.key(1)}

      def forward(x):
        return net.apply(weights, x, train=True, rngs=rngs).sum()

      return *jax.value_and_grad(forward)(x), forward(jnp.zeros_like(x))

    value, gradient, of_zero = jax.jit(functools.partial(step, True))(x)
    # Linear, so that value and derivative along the images are one and the same.
    np.testing.assert_allclose(value - of_zero, (gradient * x).sum(), rtol=1e-9)
    assert_relatively_close(jax.jit(functools.partial(step, False))(x), (value, gradient, of_zero))


def test_a_scanned_network_is_the_same_on_four_devices(x64):
  x = images(batch=8)
  model = network((3,), scan=True, remat=True)
  variables = random_variables(model, x)
  spread = model.clone(norm=functools.partial(BatchNorm, axis_name="devices"))
  mesh = Mesh(np.array(jax.devices()[:4]), ("devices",))

  def gradient(model, axis=None):
    def run(variables, x):
      def loss(params):
        logits, updated = model.apply(
          {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sin(logits).sum(), updated

      result = jax.grad(loss, has_aux=True)(variables["params"])
      return (jax.lax.psum(result[0], axis), result[1]) if axis else result

    return run

  on_all = jax.shard_map(
    gradient(spread, "devices"),
    mesh=mesh,
    in_specs=(P(), P("devices")),
    out_specs=P(),
    check_vma=False,
  )
  expected = jax.jit(gradient(model))(variables, x)
  assert_relatively_close(jax.jit(on_all)(variables, x), expected, 1e-11)


def lowered_step(model, batch=8, size=32):
  """A training step with momentum, not compiled; and the shapes of its arguments."""
  optimizer = optax.sgd(0.1, momentum=0.9)
  x = jax.ShapeDtypeStruct((batch, size, size, 3), "float32")

  def init(key):
    variables = model.init(key, jnp.zeros((1, size, size, 3)))
    return variables, optimizer.init(variables["params"])

  def step(variables, opt_state, x):
    def loss(params):
      logits, updated = model.apply(
        {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
      )
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.zeros(batch, jnp.int32)
      ).mean(), updated

    gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(gradient, opt_state, variables["params"])
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params, **updated}, opt_state

  variables, opt_state = jax.eval_shape(init, jax.random.key(0))
  return jax.jit(init).lower(jax.random.key(0)), jax.jit(step).lower(variables, opt_state, x)


def test_the_program_of_a_scanned_network_does_not_grow_with_its_depth():
  small, large = (
    [lowered.as_text() for lowered in lowered_step(create(name, scan=True))]
    for name in ("resnet20", "resnet1202")
  )
  for of_20, of_1202 in zip(small, large, strict=True):
    assert of_20.count("\n") == of_1202.count("\n")
  assert "tensor<199x3x3x16x16xf32>" in large[1]
  unrolled = lowered_step(create("resnet32"))[1].as_text()
  assert unrolled.count("\n") > 1.4 * large[1].count("\n")


@pytest.mark.long
def test_resnet_1202_is_ready_to_train_within_a_minute():
  start = time.monotonic()
  init, step = lowered_step(create("resnet1202", scan=True))
  arguments = init.compile()(jax.random.key(0))
  step = step.compile()
  seconds = time.monotonic() - start
  print(f"{seconds:.1f} s")
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)
  variables, _ = step(*arguments, x)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(variables))
  assert seconds < 60


def loss_of(model):
  def loss(params, variables, x):
    logits, updated = model.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return logits.sum(), updated

  return loss


def abstract_arguments(model, batch, size):
  x = jax.ShapeDtypeStruct((batch, size, size, 3), "float32")
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  return variables["params"], variables, x


@pytest.mark.parametrize(("block", "scan"), [("basic", False), ("bottleneck", True)])
def test_remat_keeps_a_fraction_of_the_activations_for_the_backward_pass(block, scan):
  def kept(remat):
    model = network((6, 6), block=block, shortcut="B", dtype="float32", scan=scan, remat=remat)
    arguments = abstract_arguments(model, 16, 16)

    def pull_back(*arguments):
      return jax.vjp(loss_of(model), *arguments, has_aux=True)[1]

    residuals = jax.tree.leaves(jax.eval_shape(pull_back, *arguments))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(arguments))
    return sum(math.prod(leaf.shape) for leaf in residuals) - parameters

  # An input for each block, instead of some for each of its layers.
  assert kept(remat=True) < kept(remat=False) / 4


def test_remat_computes_each_block_twice():
  def convolutions(remat):
    model = network((6, 6), dtype="float32", remat=remat)
    arguments = abstract_arguments(model, 4, 8)
    # For GPUs, where the convolutions themselves have no barriers.
    with for_platform("gpu"):
      program = jax.jit(jax.grad(loss_of(model), has_aux=True)).lower(*arguments).as_text()
    return program.count("stablehlo.convolution"), program.count("stablehlo.optimization_barrier")

  (once, no_barrier), (twice, barriers) = convolutions(False), convolutions(True)
  # Of the two in each block the second's output is needed for its norm only: at least one again.
  assert twice >= once + 12
  # Or XLA would merge the second computation with the first, and keep what it gave.
  assert (no_barrier, barriers) == (0, 12)


def test_scanned_and_rematerialised_a_step_takes_a_fraction_of_the_memory():
  def memory(**fields):
    model = network((8,), width=16, dtype="float32", **fields)
    arguments = abstract_arguments(model, 32, 16)
    step = jax.jit(jax.value_and_grad(loss_of(model), has_aux=True))
    return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

  # Unrolled, XLA for CPUs merges the two computations in spite of the barriers, and saves nothing.
  least = memory(scan=True, remat=True)
  assert least < memory(scan=True) / 2
  assert least < memory() / 2
