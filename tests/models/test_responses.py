"""The responses of the paper's Fig. 7, against an independent look at every call."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from nontrivial import random_variables as random_variables_of

from resnet_jax.models import (
  VGG,
  BasicBlock,
  BottleneckBlock,
  Conv,
  ResNet,
  Stage,
  create,
  responses,
  to_scanned,
)
from resnet_jax.models.blocks import UnitOrder

ORDERS = typing.get_args(UnitOrder)

random_variables = functools.partial(random_variables_of, dtype=np.float32)


def images(size=8, channels=3):
  return np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)


def watched(model, variables, x, train, after_norm):
  """Each 3x3 convolution in the order of calls: its output, or that of the norm of its number."""
  names, outputs = [], {}

  def watch(call, arguments, keywords, context):
    y = call(*arguments, **keywords)
    if context.method_name == "__call__":
      path = "/".join(context.module.path)
      outputs[path] = y
      if isinstance(context.module, Conv) and context.module.kernel_size == 3:
        names.append(path)
    return y

  with nn.intercept_methods(watch):
    model.apply(variables, x, train=train, mutable=["batch_stats"])

  def response(path):
    parent, _, name = path.rpartition("/")
    return outputs[f"{parent}/{name.replace('conv', 'norm')}" if after_norm(path) else path]

  return {path: response(path) for path in names}


def is_before_addition(path):
  return not path.startswith("stem") and path.endswith("conv2")


NETWORKS = {
  "paper": ({}, lambda path: True),
  "plain": ({"shortcut": None}, lambda path: True),
  "projections": ({"shortcut": "C"}, lambda path: True),
  "bottleneck": ({"block": "bottleneck"}, lambda path: True),
  "deep stem": ({"stem": "deep"}, lambda path: True),
  "imagenet": ({"stem": "imagenet", "block": "bottleneck"}, lambda path: True),
  "no norm": ({"norm": None}, lambda path: True),
  "gates and attention": (
    {"addition": "exclusive_gate", "squeeze_excitation": 2},
    lambda path: True,
  ),
  "norm_after_addition": (
    {"order": "norm_after_addition"},
    lambda path: not is_before_addition(path),
  ),
  # The last convolution of a bottleneck is no 3x3.
  "norm_after_addition bottleneck": (
    {"order": "norm_after_addition", "block": "bottleneck"},
    lambda path: True,
  ),
  "relu_before_addition": ({"order": "relu_before_addition"}, lambda path: True),
  "relu_only_preactivation": ({"order": "relu_only_preactivation"}, lambda path: True),
  "full_preactivation": (
    {"order": "full_preactivation"},
    lambda path: path.startswith("stem"),
  ),
  "full_preactivation bottleneck": (
    {"order": "full_preactivation", "block": "bottleneck"},
    lambda path: path.startswith("stem"),
  ),
}


@pytest.mark.parametrize(
  ("name", "train"),
  [*((name, False) for name in NETWORKS), ("paper", True), ("full_preactivation bottleneck", True)],
)
def test_responses_are_what_the_network_computes_in_its_order(name, train):
  fields, after_norm = NETWORKS[name]
  model = ResNet((1, 2), **({"width": 4, "stem": "cifar", "num_classes": 3} | fields))
  x = images(16)
  variables = random_variables(model, x)
  expected = watched(model, variables, x, train, after_norm)
  found = responses(model, variables, x, train)
  assert list(found) == list(expected)
  jax.tree.map(np.testing.assert_array_equal, found, dict(expected))


@pytest.mark.parametrize("norm", [None, "batch"])
def test_responses_of_vgg_are_those_before_each_activation(norm):
  model = VGG((1, 2), 4, hidden_features=(5,), num_classes=3, norm=norm)
  x = images()
  variables = random_variables(model, x)
  expected = watched(model, variables, x, False, lambda path: True)
  found = responses(model, variables, x)
  assert list(found) == ["stage1/conv1", "stage2/conv1", "stage2/conv2"]
  jax.tree.map(np.testing.assert_array_equal, found, dict(expected))


def test_a_response_is_before_activation_and_addition():
  model = ResNet((1,), width=4, stem="cifar", num_classes=3)
  x = images()
  variables = random_variables(model, x)
  found = responses(model, variables, x)
  _, features = model.apply(variables, x, return_features=True)
  np.testing.assert_array_equal(nn.relu(found["stem/conv"]), features["stem"])
  last = nn.relu(features["stem"] + found["stage1/block1/conv2"])
  np.testing.assert_allclose(last, features["stage1"], rtol=1e-6, atol=1e-6)
  assert min(y.min() for y in found.values()) < 0


def abstract_responses(model, x):
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  names = []

  def run(variables, x):
    found = responses(model, variables, x)
    names.extend(found)  # A dictionary that jit returns is sorted.
    return found

  shapes = jax.eval_shape(run, variables, x)
  return {name: shapes[name].shape for name in names}


@pytest.mark.parametrize(
  ("name", "fields", "n"),
  [("resnet20", {}, 3), ("plain20", {}, 3), ("preact_resnet110", {"stage_sizes": (2, 2, 2)}, 2)],
)
def test_responses_of_cifar_networks_are_those_of_figure_7(name, fields, n):
  found = abstract_responses(create(name, **fields), jnp.zeros((1, 32, 32, 3)))
  blocks = [(stage, block) for stage in (1, 2, 3) for block in range(1, n + 1)]
  assert list(found) == ["stem/conv"] + [
    f"stage{stage}/block{block}/conv{conv}" for stage, block in blocks for conv in (1, 2)
  ]
  # 6n + 1 layers; the classifier is the last.
  assert len(found) == 6 * n + 1
  sizes = [(1, 32, 32, 16)] * (2 * n + 1) + [(1, 16, 16, 32)] * 2 * n + [(1, 8, 8, 64)] * 2 * n
  assert list(found.values()) == sizes


@pytest.mark.parametrize(
  ("name", "overrides", "stem", "stages", "convs"),
  [
    ("resnet34", {}, [], (3, 4, 6, 3), (1, 2)),
    ("resnet50", {}, [], (3, 4, 6, 3), (2,)),
    (
      "resnet50",
      {"stem": "deep", "shortcut": "C", "stage_sizes": (1, 2)},
      [1, 2, 3],
      (1, 2),
      (2,),
    ),
    # Ten blocks and more: not in the order of the alphabet.
    ("preact_resnet200", {"stage_sizes": (1, 11)}, [], (1, 11), (2,)),
  ],
)
def test_responses_of_imagenet_networks_are_those_of_3x3_convolutions_alone(
  name, overrides, stem, stages, convs
):
  found = abstract_responses(create(name, **overrides), jnp.zeros((1, 64, 64, 3)))
  assert list(found) == [f"stem/conv{i}" for i in stem] + [
    f"stage{stage}/block{block}/conv{conv}"
    for stage, size in enumerate(stages, 1)
    for block in range(1, size + 1)
    for conv in convs
  ]


def test_responses_of_vgg16_are_its_thirteen_convolutions():
  found = abstract_responses(create("vgg16"), jnp.zeros((1, 32, 32, 3)))
  assert len(found) == 13
  assert list(found)[:3] == ["stage1/conv1", "stage1/conv2", "stage2/conv1"]
  assert list(found.values())[-1] == (1, 2, 2, 512)


@pytest.mark.parametrize(
  ("order", "block", "remat"),
  [
    *((order, block, True) for order in ORDERS for block in ("basic", "bottleneck")),
    ("original", "basic", False),
  ],
)
def test_responses_may_be_taken_compiled_and_of_rematerialised_stages(order, block, remat):
  fields = {"width": 4, "stem": "cifar", "num_classes": 3, "order": order, "block": block}
  model, plain = ResNet((2,), remat=remat, **fields), ResNet((2,), **fields)
  x = images()
  variables = random_variables(model, x)
  found = jax.jit(functools.partial(responses, model))(variables, x)
  expected = responses(plain, variables, x)
  assert set(found) == set(expected)
  for path, y in expected.items():
    np.testing.assert_allclose(found[path], y, rtol=1e-4, atol=1e-4)


def test_responses_of_another_network_are_those_of_the_blocks_in_it():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      x = nn.Conv(4, (3, 3), name="conv")(images)
      x = BasicBlock(4, name="a")(x)
      return BottleneckBlock(4, order="full_preactivation", name="b")(x)

  x = images()
  variables = random_variables(Net(), x)
  found = responses(Net(), variables, x, train=True)
  assert list(found) == ["a/conv1", "a/conv2", "b/conv2"]


def test_responses_of_modules_of_ones_own_are_in_the_order_of_computation():
  class Net(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, x):
      x = BasicBlock(3)(x)
      for features in (4, 6):
        x = Stage(BasicBlock, 3, features, scan=self.scan)(x)
      return BasicBlock(6)(x)

  x = images()
  variables = random_variables(Net(), x)
  expected = responses(Net(), variables, x)
  found = responses(Net(scan=True), to_scanned(variables), x)
  blocks = [f"Stage_{i}/block{j}" for i in (0, 1) for j in (1, 2, 3)]
  paths = ["BasicBlock_0", *blocks, "BasicBlock_1"]
  names = [f"{path}/conv{i}" for path in paths for i in (1, 2)]
  assert list(found) == list(expected) == names
  for path, y in expected.items():
    np.testing.assert_allclose(found[path], y, rtol=1e-4, atol=1e-4)


def test_responses_of_a_block_by_itself_are_those_it_has_in_a_network():
  block, x = BasicBlock(3), images()
  variables = random_variables(block, x)
  found = responses(block, variables, x)
  assert list(found) == ["conv1", "conv2"]
  y, _ = block.apply(variables, x, mutable=["batch_stats"])
  np.testing.assert_allclose(nn.relu(found["conv2"] + x), y, rtol=1e-5, atol=1e-5)


def test_responses_are_given_the_keys_that_training_needs():
  model = ResNet((1,), width=4, stem="cifar", shortcut="A", num_classes=3, addition="dropout")
  x = images()
  variables = random_variables(model, x)
  keys = {"dropout": jax.random.key(0)}
  assert len(responses(model, variables, x, train=True, rngs=keys)) == 3


def test_taking_responses_changes_no_variables():
  model = ResNet((1,), width=4, stem="cifar", num_classes=3)
  x = images()
  variables = random_variables(model, x)
  before = jax.tree.map(np.copy, variables)
  responses(model, variables, x, train=True)
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  assert set(variables) == {"params", "batch_stats"}
