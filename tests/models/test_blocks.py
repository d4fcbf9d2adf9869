"""The two blocks of the paper's Fig. 5, and stages of them, against flax.linen layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from nontrivial import random_variables as random_variables_of

from resnet_jax.models import (
  BasicBlock,
  BatchNorm,
  Block,
  BottleneckBlock,
  IdentityShortcut,
  Layer,
  ProjectionShortcut,
  ResNet,
  Stage,
  ZeroPadShortcut,
  cost,
)

BLOCKS = [BasicBlock, BottleneckBlock]
EVALUATION_NORM = functools.partial(BatchNorm, use_running_average=True)

random_variables = functools.partial(random_variables_of, dtype=np.float32)


def images(channels=8, size=6):
  return np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)


def conv_norm(variables, x, conv, norm, stride):
  """flax's convolution, padded as PyTorch's, and flax's batch norm in evaluation."""
  kernel = variables["params"][conv]["kernel"]
  size = kernel.shape[0]
  pad = ((size // 2, size // 2),) * 2
  layer = nn.Conv(kernel.shape[-1], (size, size), stride, pad, use_bias=False)
  y = layer.apply({"params": {"kernel": kernel}}, x)
  return nn.BatchNorm(use_running_average=True).apply(
    {"params": variables["params"][norm], "batch_stats": variables["batch_stats"][norm]}, y
  )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
  ("block", "strides"),
  [
    (BasicBlock, lambda s: (s, 1)),
    (BottleneckBlock, lambda s: (s, 1, 1)),
    (functools.partial(BottleneckBlock, stride_in="3x3"), lambda s: (1, s, 1)),
  ],
  ids=["basic", "bottleneck 1x1", "bottleneck 3x3"],
)
@pytest.mark.parametrize("shortcut", [None, "projection"])
def test_block_is_the_papers_figure_5(block, strides, stride, shortcut):
  x, features = images(), 12
  projection = functools.partial(ProjectionShortcut, norm=EVALUATION_NORM)
  module = block(features, stride, projection if shortcut else None, norm=EVALUATION_NORM)
  variables = random_variables(module, x)

  @jax.jit
  def reference(variables, y):
    x, layers = y, strides(stride)
    for i, layer_stride in enumerate(layers, 1):
      y = conv_norm(variables, y, f"conv{i}", f"norm{i}", layer_stride)
      y = nn.relu(y) if i < len(layers) else y
    if shortcut:
      inner = {kind: tree["shortcut"] for kind, tree in variables.items()}
      y = y + conv_norm(inner, x, "conv", "norm", stride)
    return y

  before_relu = np.asarray(reference(variables, x))
  assert before_relu.min() < 0 < before_relu.max()
  y = jax.jit(module.apply)(variables, x)
  np.testing.assert_allclose(y, np.maximum(before_relu, 0), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_block_with_a_zeroed_branch_is_relu_of_its_input(block):
  x = images()
  module = block(8)
  variables = random_variables(module, x)
  last = {BasicBlock: "norm2", BottleneckBlock: "norm3"}[block]
  variables["params"][last] = jax.tree.map(np.zeros_like, variables["params"][last])
  apply = jax.jit(functools.partial(module.apply, mutable=["batch_stats"]))
  np.testing.assert_array_equal(apply(variables, x)[0], np.maximum(x, 0))
  np.testing.assert_array_equal(apply(variables, np.abs(x))[0], np.abs(x))


@pytest.mark.parametrize("block", BLOCKS)
def test_plain_block_is_the_residual_block_without_its_input(block):
  x = images()
  without_relu = functools.partial(block, activation=lambda y: y, norm=EVALUATION_NORM)
  variables = random_variables(without_relu(8), x)
  residual = jax.jit(without_relu(8).apply)(variables, x)
  plain = jax.jit(without_relu(8, shortcut=None).apply)(variables, x)
  np.testing.assert_allclose(residual - plain, x, atol=1e-6 * np.abs(residual).max())


@pytest.mark.parametrize("block", BLOCKS)
def test_identity_and_zero_padding_add_no_parameters(block):
  def shapes(shortcut, features, stride):
    module = block(features, stride, shortcut)
    variables = jax.eval_shape(module.init, jax.random.key(0), images())
    return jax.tree.map(jnp.shape, variables)

  assert shapes(IdentityShortcut, 8, 1) == shapes(None, 8, 1)
  assert shapes(ZeroPadShortcut, 16, 2) == shapes(None, 16, 2)


@pytest.mark.parametrize("block", BLOCKS)
def test_identity_beside_a_branch_of_another_shape_is_refused(block):
  with pytest.raises(ValueError, match="8 channels into 16 at stride 2"):
    jax.eval_shape(block(16, 2).init, jax.random.key(0), images())


def test_stride_in_moves_the_stride_and_costs_more_but_keeps_shapes():
  size, channels, features = 8, 16, 32
  inner = features // 4
  shapes, macs = {}, {}
  for stride_in in ("1x1", "3x3"):
    block = BottleneckBlock(features, 2, None, stride_in=stride_in, norm=EVALUATION_NORM)
    x = jax.ShapeDtypeStruct((1, size, size, channels), "float32")
    y, variables = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
    shapes[stride_in] = (y.shape, jax.tree.map(jnp.shape, variables))
    macs[stride_in] = cost(block, (size, size, channels)).macs
  assert shapes["1x1"] == shapes["3x3"]
  assert shapes["1x1"][0] == (1, size // 2, size // 2, features)
  small, rest = (size // 2) ** 2, 9 * inner * inner + inner * features
  assert macs["1x1"] == small * (channels * inner + rest)
  assert macs["3x3"] == small * (4 * channels * inner + rest)


@pytest.mark.parametrize("block", BLOCKS)
def test_activation_stands_where_the_paper_has_relu(block):
  x = images()
  calls = []

  def counted(y):
    calls.append(y.shape)
    return jnp.tanh(y)

  y, _ = jax.jit(block(8, activation=counted).init_with_output)(jax.random.key(0), x)
  assert len(calls) == {BasicBlock: 2, BottleneckBlock: 3}[block]
  assert np.all(np.abs(y) <= 1)
  assert np.any(y < 0)


@pytest.mark.parametrize("option", ["A", "B", "C", None])
@pytest.mark.parametrize("stride", [1, 2])
def test_stage_changes_the_shape_in_its_first_block_only(option, stride):
  x = jax.ShapeDtypeStruct((2, 8, 8, 4), "float32")
  stage = Stage(BasicBlock, 3, 12, stride, option)
  y, variables = jax.eval_shape(stage.init_with_output, jax.random.key(0), x)
  assert y.shape == (2, 8 // stride, 8 // stride, 12)
  params = variables["params"]
  assert list(params) == ["block1", "block2", "block3"]
  inputs = [block["conv1"]["kernel"].shape[2] for block in params.values()]
  assert inputs == [4, 12, 12]
  with_projection = [name for name, block in params.items() if "shortcut" in block]
  assert with_projection == {"B": ["block1"], "C": list(params)}.get(option, [])


def test_stage_that_keeps_the_shape_needs_no_projection():
  stage = Stage(BasicBlock, 2, 8, 1, "B")
  variables = jax.eval_shape(stage.init, jax.random.key(0), images())
  assert not [block for block in variables["params"].values() if "shortcut" in block]


def test_stage_is_its_blocks_one_after_another():
  x = images(4)
  block = functools.partial(BasicBlock, norm=EVALUATION_NORM)
  stage = Stage(block, 2, 8, 2, "A")
  variables = random_variables(stage, x)
  first, second = (
    {kind: tree[name] for kind, tree in variables.items()} for name in ("block1", "block2")
  )
  y = jax.jit(block(8, 2, ZeroPadShortcut).apply)(first, x)
  y = jax.jit(block(8).apply)(second, y)
  np.testing.assert_allclose(jax.jit(stage.apply)(variables, x), y, rtol=1e-5, atol=1e-5)


def test_stage_with_an_unknown_option_is_refused():
  with pytest.raises(ValueError, match="shortcut='D'"):
    jax.eval_shape(Stage(BasicBlock, 1, 8, 1, "D").init, jax.random.key(0), images())


class ThreeLayers(Block):
  """Three 3x3 convolutions, twice as wide as a basic block."""

  expansion = 2

  def layers(self):
    return (
      Layer(self.features, 3, self.stride),
      Layer(self.features, 3),
      Layer(self.features, 3),
    )


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_a_network_is_made_of_blocks_of_ones_own(order):
  x = images(3, 8)
  model = ResNet((1, 2), ThreeLayers, width=4, stem="cifar", num_classes=3, order=order)
  _, features = model.apply(random_variables(model, x), x, return_features=True)
  assert {name: y.shape for name, y in features.items()} == {
    "stem": (2, 8, 8, 4),
    "stage1": (2, 8, 8, 8),
    "stage2": (2, 4, 4, 16),
  }
  basic = model.clone(block=BasicBlock)
  assert cost(basic, (8, 8, 3)) == cost(model.clone(block="basic"), (8, 8, 3))


def test_subclasses_of_bottlenecks_have_their_options_and_others_do_not():
  class Wide(BottleneckBlock):
    pass

  more = {"groups": 2, "stride_in": "3x3", "width_per_group": 128}
  model = ResNet((1, 1), Wide, width=4, **more)
  assert cost(model, (32, 32, 3)) == cost(model.clone(block="bottleneck"), (32, 32, 3))
  with pytest.raises(ValueError, match="groups=2: only bottleneck blocks"):
    ResNet((1, 1), ThreeLayers, groups=2)


def test_a_block_without_layers_says_so():
  class Empty(Block):
    pass

  with pytest.raises(NotImplementedError, match="Empty has no layers"):
    jax.eval_shape(Empty(4).init, jax.random.key(0), images(4))
