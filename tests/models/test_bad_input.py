"""What networks refuse, and what they say: the argument, its value, and what is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import (
  BatchNorm,
  cifar_fields,
  create,
  preactivation_cifar_fields,
  select_addition,
)


def refusal(function, *arguments, **keywords):
  """The message of the ValueError that a call raises."""
  try:
    function(*arguments, **keywords)
  except ValueError as error:
    return str(error)
  raise AssertionError("not refused")


@pytest.mark.parametrize(
  ("name", "overrides", "words"),
  [
    ("resnet18", {"stride_in": "3x3"}, ["stride_in='3x3'", "only bottleneck"]),
    ("resnet20", {"groups": 2}, ["groups=2", "only bottleneck"]),
    ("plain34", {"width_per_group": 4}, ["width_per_group=4", "only bottleneck"]),
    ("resnet18", {"shortcut": "A", "projection": "pool_conv"}, ["pool_conv", "'A'", "B and C"]),
    ("plain18", {"projection": "pool_conv"}, ["pool_conv", "B and C"]),
    ("plain20", {"addition": "scaled"}, ["addition='scaled'", "shortcut=None"]),
    ("resnet20", {"addition": "mean"}, ["addition='mean'", "exclusive_gate"]),
    ("resnet20", {"addition_parameters": (0.5,)}, ["addition_parameters=(0.5,)", "'sum'", "none"]),
    ("resnet20", {"addition": "scaled", "addition_parameters": (1.0,)}, ["branch_scale"]),
    ("resnet20", {"order": "preactivation"}, ["order='preactivation'", "full_preactivation"]),
    ("resnet20", {"head": "mean"}, ["head='mean'", "avg"]),
    ("resnet20", {"activation": "softmax"}, ["activation='softmax'", "leaky_relu", "function"]),
    ("resnet20", {"norm": "layer"}, ["norm='layer'", "'batch'", "None"]),
    ("resnet20", {"bn_momentum": 1.5}, ["bn_momentum=1.5", "between"]),
    ("resnet20", {"bn_epsilon": "small"}, ["bn_epsilon='small'", "number"]),
    ("resnet20", {"norm": None, "bn_epsilon": 1e-3}, ["bn_epsilon=0.001", "norm=None"]),
    ("resnet20", {"norm": None, "frozen_bn": True}, ["frozen_bn=True", "norm=None"]),
    ("resnet20", {"norm": None, "zero_init_residual": True}, ["zero_init_residual", "norm=None"]),
    ("plain20", {"zero_init_residual": True}, ["zero_init_residual", "shortcut=None"]),
    ("resnet18", {"output_stride": 64}, ["output_stride=64", "(4, 8, 16, 32)"]),
    ("resnet20", {"output_stride": 8}, ["output_stride=8", "(1, 2, 4)"]),
    ("resnet20", {"transition": "middle"}, ["transition='middle'", "last"]),
    ("resnet20", {"squeeze_excitation": 0}, ["squeeze_excitation=0", "positive"]),
    ("resnet20", {"widening": 0}, ["widening=0", "positive"]),
    ("resnet20", {"use_bias": "yes"}, ["use_bias='yes'", "True or False"]),
    ("resnet20", {"scan": 1}, ["scan=1", "True or False"]),
    ("resnet20", {"conv_padding": "valid"}, ["conv_padding='valid'", "symmetric"]),
    ("resnet20", {"stage_sizes": (True, 2)}, ["stage_sizes=(True, 2)", "positive integers"]),
    ("vgg16", {"shortcut": "A"}, ["vgg16", "'shortcut'", "hidden_features"]),
    ("vgg16", {"dropout": 1.0}, ["dropout=1.0", "between"]),
    ("vgg16", {"hidden_features": (0,)}, ["hidden_features=(0,)", "positive integers"]),
  ],
)
def test_a_field_is_named_with_its_value_and_what_is_allowed(name, overrides, words):
  message = refusal(create, name, **overrides)
  assert "\n" not in message
  for word in words:
    assert word in message


@pytest.mark.parametrize(
  "order", ["norm_after_addition", "relu_before_addition", "full_preactivation"]
)
def test_zero_init_is_refused_where_the_branch_could_not_learn(order):
  with pytest.raises(ValueError, match=f"zero_init_residual.*{order}"):
    model = create("resnet20", stage_sizes=(1,), order=order, zero_init_residual=True)
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
  ("name", "images", "words"),
  [
    ("resnet18", np.zeros((2, 31, 64, 3)), ["31x64 pixels", "at least 32x32"]),
    ("resnet20", np.zeros((2, 32, 3, 3)), ["32x3 pixels", "at least 4x4"]),
    ("vgg16", np.zeros((2, 16, 16, 3)), ["16x16 pixels", "at least 32x32"]),
    ("resnet20", np.zeros((32, 32, 3)), ["(32, 32, 3)", "(N, H, W, C)"]),
    ("resnet20", np.zeros((2, 32, 32, 3), np.uint8), ["uint8", "floats"]),
    ("resnet20", np.zeros((2, 3, 32, 32)), ["3x32 pixels", "N, H, W, C"]),
  ],
)
def test_images_that_cannot_be_are_refused_with_their_shape(name, images, words):
  message = refusal(jax.eval_shape, create(name).init, jax.random.key(0), images)
  for word in words:
    assert word in message


def test_smaller_images_are_enough_at_a_smaller_output_stride():
  model = create("resnet18", output_stride=8)
  jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_images_of_other_channels_than_the_parameters_are_refused(name, scan):
  model = create(name, **({"scan": scan} if name == "resnet20" else {}))
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  with pytest.raises(ValueError, match=r"has 1 channels: the kernel of \S+ takes 3"):
    jax.eval_shape(model.apply, variables, jnp.zeros((1, 32, 32, 1)))


@pytest.mark.parametrize("depth", [0, 2, 21, 9])
def test_depths_that_no_network_of_the_papers_has_are_refused(depth):
  with pytest.raises(ValueError, match=rf"depth={depth}: .*6n\+2 layers.*\(8, 14, 20, …\)"):
    cifar_fields(depth)
  with pytest.raises(ValueError, match=rf"depth={depth}: .*9n\+2 layers.*\(11, 20, 29, …\)"):
    preactivation_cifar_fields(depth)


def test_an_addition_with_other_parameters_names_those_it_takes():
  with pytest.raises(ValueError, match=r"addition_parameters.*initial_bias"):
    select_addition("exclusive_gate", (1.0, 2.0))


def test_a_batch_norm_axis_outside_any_axis_is_said_in_one_line():
  norm = BatchNorm(axis_name="batch")
  x = jnp.zeros((4, 3))
  variables = norm.init(jax.random.key(0), x)
  with pytest.raises(ValueError, match="axis_name='batch': batch norm finds no axis") as error:
    norm.apply(variables, x, mutable=["batch_stats"])
  assert "\n" not in str(error.value)
  assert norm.clone(use_running_average=True).apply(variables, x).shape == x.shape
