"""The mathematics of residual units and of the networks made of them, in float64."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from nontrivial import random_variables

from resnet_jax.models import (
  BasicBlock,
  BatchNorm,
  BottleneckBlock,
  Conv,
  DropoutAddition,
  GatedAddition,
  IdentityShortcut,
  ProjectionShortcut,
  Residual,
  ResNet,
  ScaledAddition,
  SqueezeExcitation,
  Stage,
  ZeroPadShortcut,
  select_addition,
)
from resnet_jax.models.factories import activation_function

pytestmark = pytest.mark.usefixtures("x64")


BLOCKS = [BasicBlock, BottleneckBlock]
PREACTIVATIONS = ["relu_only_preactivation", "full_preactivation"]
# arXiv 1603.05027, Fig. 4: W a convolution, N a norm, R the activation, + the addition.
ORDERS = {
  BasicBlock: {
    "original": "WNRWN+R",
    "norm_after_addition": "WNRW+NR",
    "relu_before_addition": "WNRWNR+",
    "relu_only_preactivation": "RWNRWN+",
    "full_preactivation": "NRWNRW+",
  },
  BottleneckBlock: {
    "original": "WNRWNRWN+R",
    "norm_after_addition": "WNRWNRW+NR",
    "relu_before_addition": "WNRWNRWNR+",
    "relu_only_preactivation": "RWNRWNRWN+",
    "full_preactivation": "NRWNRWNRW+",
  },
}


def images(channels=8, size=5, batch=2):
  return np.random.default_rng(0).normal(size=(batch, size, size, channels))


def initial_variables(module, x):
  """Those of `init`, but for the kernels: drawing them by jax takes seconds to compile."""

  def is_kernel(path):
    return path[-1].key == "kernel"

  @jax.jit
  def others():
    variables = module.init(jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: () if is_kernel(path) else leaf, variables
    )

  return jax.tree_util.tree_map_with_path(
    lambda path, drawn, initial: drawn if is_kernel(path) else initial,
    random_variables(module, x),
    others(),
  )


def evaluation_norm(**settings):
  return BatchNorm(use_running_average=True, **settings)


def assert_close(actual, expected, rtol=1e-11):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), actual, expected
  )


def step_by_step(variables, x, order, strides, projects, preactivates, train):
  """A unit of flax.linen layers, one letter of Fig. 4 after another; and its new statistics."""
  params, stats = variables["params"], variables.get("batch_stats", {})
  updated = {}

  def conv(weights, y, stride):
    size = weights["kernel"].shape[0]
    pad = ((size // 2, size // 2),) * 2
    layer = nn.Conv(weights["kernel"].shape[-1], (size, size), stride, pad, use_bias=False)
    return layer.apply({"params": weights}, y)

  def norm(weights, statistics, y):
    layer = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    y, new = layer.apply({"params": weights, "batch_stats": statistics}, y, mutable=["batch_stats"])
    return y, new["batch_stats"]

  y = shortcut = x
  count = {"W": 0, "N": 0}
  for place, letter in enumerate(order):
    before_any_convolution = place < order.index("W")
    if letter in count:
      count[letter] += 1
    if before_any_convolution and not preactivates:
      continue
    if letter == "W":
      y = conv(params[f"conv{count['W']}"], y, strides[count["W"] - 1])
    elif letter == "N":
      name = f"norm{count['N']}"
      y, updated[name] = norm(params[name], stats[name], y)
    elif letter == "R":
      y = np.maximum(y, 0)
      if before_any_convolution and projects:
        shortcut = y  # Activated both ways.
    elif projects:
      projected = conv(params["shortcut"]["conv"], shortcut, strides[0])
      projected, new = norm(params["shortcut"]["norm"], stats["shortcut"]["norm"], projected)
      updated["shortcut"] = {"norm": new}
      y = y + projected
    else:
      y = y + shortcut
  return y, updated


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize(
  ("block", "order", "preactivates"),
  [
    (block, order, preactivates)
    for block in BLOCKS
    for order in ORDERS[block]
    for preactivates in ([True, False] if order in PREACTIVATIONS else [True])
  ],
)
def test_each_unit_is_figure_4_step_by_step(block, order, preactivates, projects, train):
  x = images()
  norm = functools.partial(BatchNorm, use_running_average=not train)
  features, stride = (12, 2) if projects else (8, 1)
  shortcut = functools.partial(ProjectionShortcut, norm=norm) if projects else IdentityShortcut
  unit = block(features, stride, shortcut, norm=norm, order=order, preactivate=preactivates)
  variables = random_variables(unit, x)
  y, updated = unit.apply(variables, x, mutable=["batch_stats"])
  strides = (stride, 1, 1)
  expected, stats = step_by_step(
    variables, x, ORDERS[block][order], strides, projects, preactivates, train
  )
  assert_close(y, expected)
  assert_close(updated["batch_stats"], stats)


@pytest.mark.parametrize("order", PREACTIVATIONS)
def test_preactivation_goes_both_ways_beside_zero_padding_too(order):
  x = images()
  unit = BasicBlock(12, 2, ZeroPadShortcut, norm=evaluation_norm, order=order)
  variables = random_variables(unit, x)
  plain = BasicBlock(12, 2, None, norm=evaluation_norm, order=order).apply(variables, x)
  activated = x
  if order == "full_preactivation":
    norm = {kind: tree["norm1"] for kind, tree in variables.items()}
    activated = evaluation_norm().apply(norm, x)
  shortcut = np.zeros(plain.shape)
  shortcut[..., :8] = np.maximum(activated, 0)[:, ::2, ::2]
  assert_close(unit.apply(variables, x), plain + shortcut)


def without_branch(variables):
  """The last convolution of the branch and the norm behind it zero."""
  variables = jax.tree.map(np.copy, variables)
  convs = sorted(name for name in variables["params"] if name.startswith("conv"))
  for name in (convs[-1], convs[-1].replace("conv", "norm")):
    variables["params"][name] = jax.tree.map(np.zeros_like, variables["params"][name])
  return variables


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("order", ["relu_before_addition", *PREACTIVATIONS])
def test_a_unit_without_branch_is_the_identity(block, order, train):
  norm = functools.partial(BatchNorm, use_running_average=not train)
  unit, x = block(8, norm=norm, order=order), images()
  variables = without_branch(random_variables(unit, x))
  assert x.min() < 0
  y, _ = unit.apply(variables, x, mutable=["batch_stats"])
  np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("block", BLOCKS)
def test_an_original_unit_without_branch_is_the_identity_of_what_is_not_negative(block):
  unit, x = block(8), images()
  variables = without_branch(random_variables(unit, x))
  y, _ = unit.apply(variables, np.abs(x), mutable=["batch_stats"])
  np.testing.assert_array_equal(y, np.abs(x))
  y, _ = unit.apply(variables, x, mutable=["batch_stats"])
  np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_residual_learning_around_a_zero_branch_is_the_identity(layers):
  x = images(6)
  branch = []
  for _ in range(layers):
    branch += [nn.Dense(6), nn.relu]
  residual = Residual(nn.Sequential(branch[:-1]))
  variables = random_variables(residual, x)
  dense = variables["params"]["branch"]
  last = f"layers_{2 * layers - 2}"
  assert list(dense)[-1] == last
  y = x
  for i in range(layers):
    weights = dense[f"layers_{2 * i}"]
    y = y @ weights["kernel"] + weights["bias"]
    y = np.maximum(y, 0) if i < layers - 1 else y
  assert_close(residual.apply(variables, x), x + y)
  dense[last] = jax.tree.map(np.zeros_like, dense[last])
  np.testing.assert_array_equal(residual.apply(variables, x), x)


def test_a_residual_of_two_and_three_convolutions_is_the_papers_unit():
  x = images()
  for block in BLOCKS:
    unit = block(8, norm=evaluation_norm)
    variables = random_variables(unit, x)
    plain = block(8, shortcut=None, norm=evaluation_norm, activation=lambda y: y)

    class Branch(nn.Module):
      unit: nn.Module

      def __call__(self, y):
        return self.unit(y)

    linear = Residual(Branch(plain), activation=lambda y: y)
    wrapped = {kind: {"branch": {"unit": tree}} for kind, tree in variables.items()}
    same = block(8, norm=evaluation_norm, activation=lambda y: y)
    assert_close(linear.apply(wrapped, x), same.apply(variables, x))


def test_residual_takes_any_shortcut_activation_and_addition():
  x = images(6)
  residual = Residual(nn.Dense(4), nn.Dense(4, use_bias=False), nn.tanh, ScaledAddition(0.25, -2.0))
  variables = random_variables(residual, x)
  params = variables["params"]
  assert set(params) == {"branch", "shortcut"}
  branch = x @ params["branch"]["kernel"] + params["branch"]["bias"]
  expected = np.tanh(0.25 * (x @ params["shortcut"]["kernel"]) - 2 * branch)
  assert_close(residual.apply(variables, x), expected)
  function = Residual(np.sin, addition=lambda shortcut, branch: shortcut * branch)
  assert_close(function.apply({}, x), x * np.sin(x))


def test_a_gate_within_a_residual_is_a_part_of_it():
  x = images(6)
  residual = Residual(nn.Dense(6), addition=GatedAddition())
  variables = random_variables(residual, x)
  assert set(variables["params"]) == {"branch", "addition"}
  branch = nn.Dense(6).apply({"params": variables["params"]["branch"]}, x)
  expected = GatedAddition().apply({"params": variables["params"]["addition"]}, x, branch)
  assert_close(residual.apply(variables, x), expected)


@pytest.mark.parametrize(
  ("block", "train"), [(BasicBlock, False), (BasicBlock, True), (BottleneckBlock, True)]
)
@pytest.mark.parametrize("order", PREACTIVATIONS)
def test_the_jacobian_of_a_preactivation_unit_is_one_plus_that_of_its_branch(block, order, train):
  x = images(8, 3)
  norm = functools.partial(BatchNorm, use_running_average=not train)
  settings = {"norm": norm, "order": order, "activation": nn.elu}
  # Twice as large, or the derivative of three small layers is next to nothing beside one.
  variables = jax.tree.map(lambda leaf: 2 * leaf, random_variables(block(8, **settings), x))

  def jacobian(shortcut):
    unit = block(8, shortcut=shortcut, **settings)
    return jax.jit(jax.jacobian(lambda x: unit.apply(variables, x, mutable=["batch_stats"])[0]))(x)

  of_branch = np.asarray(jacobian(None)).reshape(x.size, x.size)
  of_unit = np.asarray(jacobian(IdentityShortcut)).reshape(x.size, x.size)
  assert np.abs(of_branch).max() > 0.02
  np.testing.assert_allclose(of_unit, np.eye(x.size) + of_branch, rtol=0, atol=1e-14)


def test_a_gradient_reaches_the_first_unit_of_twenty_that_do_nothing():
  # 1603.05027, eq. 5: what comes in at the end arrives unchanged, whatever the depth.
  stage = Stage(
    functools.partial(BasicBlock, order="full_preactivation", norm=evaluation_norm), 20, 4
  )
  x = images(4, 3)
  variables = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape), jax.eval_shape(stage.init, jax.random.key(0), x)
  )
  weights = images(4, 3)[::-1]
  gradient = jax.grad(lambda x: (weights * stage.apply(variables, x)).sum())(jnp.asarray(x))
  np.testing.assert_array_equal(gradient, weights)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def gate(params, x):
  return sigmoid(x @ params["conv"]["kernel"][0, 0] + params["bias"])


ADDITIONS = {
  "sum": ((), lambda params, x, f: x + f),
  "scaled": ((0.3, 1.5), lambda params, x, f: 0.3 * x + 1.5 * f),
  "exclusive_gate": ((), lambda params, x, f: (1 - gate(params, x)) * x + gate(params, x) * f),
  "shortcut_gate": ((-1.5,), lambda params, x, f: (1 - gate(params, x)) * x + f),
  "dropout": ((0.4,), lambda params, x, f: x + f),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions_are_their_formulas(name):
  parameters, formula = ADDITIONS[name]
  shortcut, branch = images(), 3 * images()[::-1]
  addition = select_addition(name, parameters)()
  shapes = jax.eval_shape(addition.init, jax.random.key(0), shortcut, branch)
  variables = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=leaf.shape), shapes)
  assert set(variables.get("params", {})) == ({"conv", "bias"} if "gate" in name else set())
  expected = formula(variables.get("params"), shortcut, branch)
  assert_close(addition.apply(variables, shortcut, branch), expected)


@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize("name", ADDITIONS)
def test_a_block_adds_what_its_shortcut_and_its_branch_give(name, projects):
  parameters, formula = ADDITIONS[name]
  x = images()
  shortcut = functools.partial(ProjectionShortcut, norm=evaluation_norm)
  settings = {"norm": evaluation_norm, "activation": jnp.tanh, "order": "relu_before_addition"}
  features, stride = (12, 2) if projects else (8, 1)
  unit = BasicBlock(
    features,
    stride,
    shortcut if projects else IdentityShortcut,
    addition=select_addition(name, parameters),
    **settings,
  )
  variables = random_variables(unit, x)
  branch = BasicBlock(features, stride, None, **settings).apply(variables, x)
  if projects:
    own = {kind: tree["shortcut"] for kind, tree in variables.items()}
    x_or_projection = np.asarray(shortcut(features, stride).apply(own, x))
  else:
    x_or_projection = x
  expected = formula(variables["params"].get("addition"), x_or_projection, np.asarray(branch))
  assert_close(unit.apply(variables, x), expected)


def test_additions_start_as_table_1_has_them():
  assert ScaledAddition() == select_addition("scaled")() == ScaledAddition(0.5, 0.5)
  assert DropoutAddition(0.5, deterministic=True) == select_addition("dropout")()
  for name in ("exclusive_gate", "shortcut_gate"):
    params = select_addition(name)().init(jax.random.key(0), images(), images())["params"]
    np.testing.assert_array_equal(params["bias"], np.full(8, -6.0))


@pytest.mark.parametrize("block", BLOCKS)
def test_an_exclusively_gated_unit_starts_near_the_identity(block):
  x = np.abs(images(64, batch=4))
  unit = block(64, norm=evaluation_norm, addition=select_addition("exclusive_gate"))
  y, variables = jax.jit(unit.init_with_output)(jax.random.key(0), x)
  # The gate's scores are -6 and a random part: it is open by one percent, not by the 50 of bias 0.
  assert np.abs(y - x).mean() < 0.05 * x.mean()
  zero = jax.tree.map(jnp.zeros_like, variables["params"]["addition"]["conv"])
  variables["params"]["addition"]["conv"] = zero
  branch = block(64, shortcut=None, norm=evaluation_norm, order="relu_before_addition")
  largest = np.abs(branch.apply(variables, x)).max() + np.abs(x).max()
  assert np.abs(unit.apply(variables, x) - x).max() < 2 * sigmoid(-6) * largest


def test_dropout_of_the_shortcut_keeps_its_mean_and_drops_at_its_rate():
  shortcut, branch = np.ones((16, 16, 16, 16)), np.full((16, 16, 16, 16), 5.0)
  for rate in (0.2, 0.5):
    addition = DropoutAddition(rate)
    y = addition.apply({}, shortcut, branch, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(y) - branch
    np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - rate)], atol=1e-14)
    deviation = np.sqrt(rate / (1 - rate) / kept.size)
    assert kept.mean() == pytest.approx(1, abs=4 * deviation)


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_of_shortcuts_needs_a_key_in_training_and_draws_by_it(scan):
  model = ResNet(
    (3,),
    width=4,
    stem="cifar",
    num_classes=3,
    norm=None,
    addition="dropout",
    dtype="float64",
    scan=scan,
  )
  x = images(3)
  variables = random_variables(model, x)

  def apply(train, key=None):
    rngs = None if key is None else {"dropout": jax.random.key(key)}
    return np.asarray(model.apply(variables, x, train=train, rngs=rngs))

  with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
    apply(True)
  np.testing.assert_array_equal(apply(False), apply(False, 1))
  np.testing.assert_array_equal(apply(True, 1), apply(True, 1))
  assert np.any(apply(True, 1) != apply(True, 2))
  assert np.any(apply(True, 1) != apply(False))


def test_squeeze_excitation_is_its_formula():
  x = images(8)
  module = SqueezeExcitation(4, dtype=jnp.float64)
  params = random_variables(module, x)["params"]
  assert params["reduce"]["kernel"].shape == (8, 2)
  squeezed = x.mean((1, 2)) @ params["reduce"]["kernel"] + params["reduce"]["bias"]
  expanded = np.maximum(squeezed, 0) @ params["expand"]["kernel"] + params["expand"]["bias"]
  expected = x * sigmoid(expanded)[:, None, None]
  assert_close(module.apply({"params": params}, x), expected)
  small = jax.eval_shape(SqueezeExcitation(16).init, jax.random.key(0), x)["params"]
  assert small["reduce"]["kernel"].shape == (8, 1)


@pytest.mark.parametrize("order", ORDERS[BasicBlock])
def test_squeeze_excitation_stands_at_the_end_of_the_branch(order):
  x = images()
  weights = functools.partial(SqueezeExcitation, 2)
  settings = {"norm": evaluation_norm, "order": order}
  unit = BasicBlock(8, attention=weights, **settings)
  variables = random_variables(unit, x)
  calls = {}

  def watch(call, arguments, keywords, context):
    y = call(*arguments, **keywords)
    calls.setdefault(context.module.name, (arguments, y))
    return y

  with nn.intercept_methods(watch):
    unit.apply(variables, x)
  (attended,), y = calls["attention"]
  # What would have been added without it, and what is.
  with nn.intercept_methods(watch):
    calls.clear()
    BasicBlock(8, **settings).apply(variables, x)
  np.testing.assert_array_equal(attended, calls["addition"][0][1])
  own = {"params": variables["params"]["attention"]}
  np.testing.assert_array_equal(y, weights().apply(own, attended))
  calls.clear()
  with nn.intercept_methods(watch):
    unit.apply(variables, x)
  np.testing.assert_array_equal(calls["addition"][0][1], y)


# Networks.


def tiny(stage_sizes=(2, 2), **fields):
  defaults = {"width": 4, "stem": "cifar", "num_classes": 3} | fields
  return ResNet(stage_sizes, dtype="float64", param_dtype="float64", **defaults)


@pytest.mark.parametrize(
  ("order", "block", "train"),
  [
    ("original", "basic", True),
    ("relu_only_preactivation", "bottleneck", False),
  ],
)
def test_zero_init_residual_starts_every_block_as_its_shortcut(order, block, train):
  model = tiny(block=block, order=order, shortcut="A", zero_init_residual=True)
  x = images(3, 6)
  variables = initial_variables(model, x)
  apply = functools.partial(model.apply, train=train, return_features=True, mutable=["batch_stats"])
  (_, maps), _ = apply(variables, x)

  def padded(y, features, stride):
    return np.pad(y[:, ::stride, ::stride], ((0, 0),) * 3 + ((0, features - y.shape[-1]),))

  widths = (4, 8) if block == "basic" else (16, 32)
  np.testing.assert_array_equal(maps["stage1"], padded(maps["stem"], widths[0], 1))
  np.testing.assert_array_equal(maps["stage2"], padded(maps["stage1"], widths[1], 2))
  assert np.any(maps["stem"])


def test_without_zero_init_no_scale_starts_at_zero():
  variables = initial_variables(tiny(), images(3, 6))
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    if path[-1].key == "scale":
      np.testing.assert_array_equal(leaf, 1)


def test_a_zero_started_branch_learns():
  model, x = tiny((2,), zero_init_residual=True), images(3, 6)
  variables = initial_variables(model, x)

  def loss(params):
    logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    return jnp.square(logits - 1).sum()

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  for block in ("block1", "block2"):
    assert np.all(gradient["stage1"][block]["norm2"]["scale"] != 0)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(("transition", "place"), [("first", 0), ("last", 2)])
def test_the_block_that_changes_the_dimensions_stands_where_transition_says(
  transition, place, block
):
  model = tiny((1, 3), block=block, transition=transition)
  x = images(3, 8)
  found = {}

  def watch(call, arguments, keywords, context):
    y = call(*arguments, **keywords)
    module = context.module
    is_block = isinstance(module, BasicBlock | BottleneckBlock)
    if is_block and context.method_name == "__call__" and module.path[0] == "stage2":
      found[module.name] = (arguments[0].shape, y.shape, module.stride)
    return y

  with nn.intercept_methods(watch):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
  factor = 1 if block == "basic" else 4
  small, large = (2, 4, 4, 8 * factor), (2, 8, 8, 4 * factor)
  shapes = [large] * (place + 1) + [small] * (3 - place)
  expected = {f"block{i + 1}": (shapes[i], shapes[i + 1], 2 if i == place else 1) for i in range(3)}
  assert found == expected
  stage = variables["params"]["stage2"]
  assert [name for name in stage if "shortcut" in stage[name]] == [f"block{place + 1}"]


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("head", ["avg", "max", "flatten", "none"])
def test_the_head_is_its_pooling_and_one_dense_layer(head, num_classes, order):
  model = tiny((1, 1), head=head, num_classes=num_classes, order=order)
  x = images(3, 6)
  variables = random_variables(model, x)
  output, features = model.apply(variables, x, return_features=True)
  last = features["stage2"]
  assert last.shape == (2, 3, 3, 8)
  if order == "full_preactivation":
    norm = {kind: tree["norm"] for kind, tree in variables.items()}
    last = nn.relu(evaluation_norm().apply(norm, last))
  pooled = {
    "avg": lambda y: y.mean((1, 2)),
    "max": lambda y: y.max((1, 2)),
    "flatten": lambda y: y.reshape(2, -1),
    "none": lambda y: y,
  }[head](np.asarray(last))
  has_classifier = bool(num_classes) and head != "none"
  assert ("head" in variables["params"]) == has_classifier
  if has_classifier:
    classifier = variables["params"]["head"]
    pooled = pooled @ classifier["kernel"] + classifier["bias"]
  assert_close(output, pooled)


@pytest.mark.parametrize("stem", ["imagenet", "deep", "cifar"])
@pytest.mark.parametrize("order", ORDERS[BasicBlock])
def test_preactivations_end_with_norm_and_activation_and_start_once(order, stem):
  params = jax.eval_shape(
    tiny(order=order, stem=stem, shortcut="C").init, jax.random.key(0), images(3, 32)
  )["params"]
  full = order == "full_preactivation"
  assert ("norm" in params) == full
  # The stem of CIFAR ends with norm and ReLU, that of ImageNet with pooling.
  assert ("norm1" in params["stage1"]["block1"]) == (not full or stem != "cifar")
  assert "norm1" in params["stage1"]["block2"]
  assert "norm1" in params["stage2"]["block1"]
  assert ("norm" in params["stage1"]["block2"]["shortcut"]) != full


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_relu_only_preactivation_activates_once_at_start_and_end(stem):
  calls = []

  def counted(y):
    calls.append(y.shape)
    return nn.relu(y)

  model = tiny((2, 1), order="relu_only_preactivation", stem=stem, activation=counted)
  jax.eval_shape(model.init, jax.random.key(0), images(3, 32))
  # The stem's, two in each block, and that after the last stage; less one at the start for CIFAR.
  assert len(calls) == 1 + 3 * 2 + 1 - (stem == "cifar")


@functools.cache
def shapes_of_strided(block):
  model = ResNet((2, 2, 2, 2), block, width=2)
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
  return jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0), x))


@pytest.mark.parametrize(
  ("block", "output_stride", "sizes", "dilations"),
  [
    ("basic", None, (16, 8, 4, 2), (1, 1, 1, 1)),
    ("basic", 32, (16, 8, 4, 2), (1, 1, 1, 1)),
    ("basic", 16, (16, 8, 4, 4), (1, 1, 1, 2)),
    ("basic", 8, (16, 8, 8, 8), (1, 1, 2, 4)),
    ("basic", 4, (16, 16, 16, 16), (1, 2, 4, 8)),
    ("bottleneck", 8, (16, 8, 8, 8), (1, 1, 2, 4)),
  ],
)
def test_output_stride_dilates_instead_of_striding(block, output_stride, sizes, dilations):
  model = ResNet((2, 2, 2, 2), block, width=2, output_stride=output_stride)
  x = jnp.zeros((1, 64, 64, 3))
  found = []

  def watch(call, arguments, keywords, context):
    module = context.module
    if isinstance(module, Conv) and context.method_name == "__call__" and module.kernel_size == 3:
      found.append(module.dilation)
    return call(*arguments, **keywords)

  with nn.intercept_methods(watch):
    (_, features), variables = jax.eval_shape(
      functools.partial(model.init_with_output, return_features=True), jax.random.key(0), x
    )
  assert tuple(features[f"stage{i}"].shape[1] for i in (1, 2, 3, 4)) == sizes
  # The convolution that would stride sees the grid before it, all after it that behind it.
  before = {"basic": 1, "bottleneck": 0}[block]
  after = {"basic": 3, "bottleneck": 2}[block]
  expected = zip((1, *dilations), dilations, strict=False)
  assert found == [d for old, new in expected for d in [old] * before + [new] * after]
  assert jax.tree.map(jnp.shape, variables) == shapes_of_strided(block)


@pytest.mark.parametrize(
  "block",
  [
    {"block": "basic"},
    {"block": "bottleneck", "stride_in": "1x1"},
    {"block": "bottleneck", "stride_in": "3x3"},
    {"block": "basic", "projection": "pool_conv"},
    {"block": "bottleneck", "projection": "pool_conv", "shortcut": "C"},
    {"block": "basic", "projection": "pool_conv", "transition": "last"},
  ],
  ids=lambda block: "-".join(block.values()),
)
def test_a_dilated_network_computes_the_features_of_the_strided_one_and_those_between(
  block,
):
  # Odd numbers of rows, 19 and 5, where a pooling's windows are cut off by the border.
  size = 19 if "projection" in block else 16

  def features(**fields):
    model = tiny((1, 1, 2, 2), width=2, num_classes=0, **block, **fields)
    variables = random_variables(model, images(3, size, 1))
    return jax.jit(functools.partial(model.apply, return_features=True))(
      variables, images(3, size, 1)
    )[1]

  strided, dilated = features(), features(output_stride=2)
  assert dilated["stage4"].shape[1] == -(-size // 2)
  for name, feature in strided.items():
    step = -(-dilated[name].shape[1] // feature.shape[1])
    assert_close(dilated[name][:, ::step, ::step], feature)


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_frozen_batch_norm_trains_as_it_evaluates(order):
  frozen, x = tiny(frozen_bn=True, order=order), images(3, 8)
  variables = random_variables(frozen, x)
  apply = jax.jit(functools.partial(frozen.apply, mutable=["batch_stats"]), static_argnames="train")
  logits, updated = apply(variables, x, train=True)
  jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
  np.testing.assert_array_equal(logits, apply(variables, x, train=False)[0])
  thawed = tiny(order=order)
  assert_close(logits, thawed.apply(variables, x))
  # Nothing is written: no collection need be mutable.
  np.testing.assert_allclose(frozen.apply(variables, x, train=True), logits, rtol=1e-12)


@pytest.mark.parametrize(
  ("name", "function"),
  [
    ("relu", lambda x: np.maximum(x, 0)),
    ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
    ("sigmoid", sigmoid),
    ("tanh", np.tanh),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ("gelu", lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ("silu", lambda x: x * sigmoid(x)),
    ("identity", lambda x: x),
  ],
)
def test_an_activation_by_name_is_the_function(name, function):
  x = images()
  assert_close(activation_function(name)(x), function(x))


def test_a_network_takes_its_activation_by_name_or_as_a_function():
  x = images(3, 8)
  variables = random_variables(tiny(), x)
  by_name, by_function, other = (
    np.asarray(tiny(activation=activation).apply(variables, x))
    for activation in ("tanh", jnp.tanh, "relu")
  )
  np.testing.assert_array_equal(by_name, by_function)
  assert np.any(by_name != other)


def test_a_network_without_norm_has_no_statistics_and_its_convolutions_alone():
  x = images(3, 8)
  shapes = jax.eval_shape(tiny(norm=None, use_bias=True).init, jax.random.key(0), x)
  assert set(shapes) == {"params"}
  leaves = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes["params"])}
  assert leaves == {"kernel", "bias"}
  model = tiny(norm=None, use_bias=True)
  variables = random_variables(model, x)
  with_statistics_of_one, _ = model.apply(variables, x[:1], train=True, mutable=["batch_stats"])
  assert_close(with_statistics_of_one, model.apply(variables, x)[:1])


@pytest.mark.parametrize("use_bias", [False, True])
def test_use_bias_gives_every_convolution_a_bias_that_starts_at_zero(use_bias):
  model = tiny(shortcut="C", use_bias=use_bias)
  params = jax.eval_shape(model.init, jax.random.key(0), images(3, 6))["params"]
  del params["head"]
  nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, dict) and "kernel" in node)
  convolutions = [node for node in nodes if isinstance(node, dict)]
  assert len(convolutions) == 1 + 4 * 3
  for node in convolutions:
    assert set(node) == ({"kernel", "bias"} if use_bias else {"kernel"})
    if use_bias:
      assert node["bias"].shape == node["kernel"].shape[-1:]
  first = Conv(4, 3, use_bias=True).init(jax.random.key(0), images(4, 6))["params"]
  np.testing.assert_array_equal(first["bias"], np.zeros(4))


def test_a_bias_is_added_to_the_convolution():
  x = images(3, 8)
  model = tiny((1,), norm=None, use_bias=True, activation="identity", head="none", shortcut=None)
  variables = random_variables(model, x)
  zero = jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.zeros_like(leaf) if path[-1].key == "kernel" else leaf, variables
  )
  last = variables["params"]["stage1"]["block1"]["conv2"]["bias"]
  np.testing.assert_array_equal(model.apply(zero, x), np.broadcast_to(last, (2, 8, 8, 4)))


def test_a_norm_may_be_any_factory():
  class Scale(nn.Module):
    use_running_average: bool
    dtype: str
    param_dtype: str
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x):
      return x * self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), self.param_dtype)

  model, x = tiny((1,), norm=Scale, bn_momentum=0.5), images(3, 6)
  variables = random_variables(model, x)
  assert set(variables) == {"params"}
  calls = []

  def watch(call, arguments, keywords, context):
    if isinstance(context.module, Scale):
      module = context.module
      calls.append((module.use_running_average, module.dtype, module.momentum))
    return call(*arguments, **keywords)

  with nn.intercept_methods(watch):
    model.apply(variables, x, train=True)
  assert calls == [(False, "float64", 0.5)] * 3
