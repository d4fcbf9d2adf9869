"""What a network is told is wrong: the argument, its value, and what would be right."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.models import (
  VGG,
  Addition,
  BasicBlock,
  BatchNorm,
  BottleneckBlock,
  Conv,
  IdentityShortcut,
  ProjectionShortcut,
  Residual,
  ResNet,
  SqueezeExcitation,
  Stage,
  Stem,
  VGGStage,
  cifar_fields,
  cost,
  create,
  image_shape,
  preactivation_cifar_fields,
  select_addition,
)

ORDERS = (
  "original",
  "norm_after_addition",
  "relu_before_addition",
  "relu_only_preactivation",
  "full_preactivation",
)
ADDITIONS = ("sum", "scaled", "exclusive_gate", "shortcut_gate", "dropout")
ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu", "silu", "identity")
FLOATS = ("float32", "bfloat16", "float16", "float64")
POSITIVE = "a positive integer"
FRACTION = "a number in [0, 1)"
FACTORY, FUNCTION = "expected a factory of modules", "expected a function of an array"


def small(**fields):
  return ResNet(**({"stage_sizes": (1,), "width": 4, "stem": "cifar", "num_classes": 3} | fields))


def initialise(module, shape=(2, 8, 8, 3), dtype="float32", **arguments):
  x = jax.ShapeDtypeStruct(shape, dtype)
  return jax.eval_shape(functools.partial(module.init, **arguments), jax.random.key(0), x)


def refused(function, *contents):
  """One line, that has all of it: argument, value, and what is expected."""
  with pytest.raises(ValueError) as error:
    function()
  message = str(error.value)
  assert "\n" not in message
  assert len(message) < 350
  for content in contents:
    assert str(content) in message
  return message


@pytest.mark.parametrize(
  ("field", "value", "allowed"),
  [
    ("stage_sizes", (), "a tuple of positive integers"),
    ("stage_sizes", np.array([1, 1]), "a tuple of positive integers"),
    ("stage_sizes", [2, 2], "a tuple of positive integers"),
    ("stage_sizes", (2, -1), "a tuple of positive integers"),
    ("stage_sizes", (2, 1.5), "a tuple of positive integers"),
    ("stage_sizes", (True, 2), "a tuple of positive integers"),
    ("block", "wide", ("basic", "bottleneck")),
    ("stem", "mnist", ("imagenet", "cifar", "deep")),
    ("shortcut", "D", ("A", "B", "C", None)),
    ("projection", "pool", ("conv", "pool_conv")),
    ("order", "preactivation", ORDERS),
    ("order", None, ORDERS),
    ("stride_in", 3, ("1x1", "3x3")),
    ("transition", "middle", ("first", "last")),
    ("head", "mean", ("avg", "max", "flatten", "none")),
    ("head", None, ("avg", "max", "flatten", "none")),
    ("conv_padding", "valid", ("symmetric", "same")),
    ("pool_padding", (2, 2), ((0, 0), (0, 1), (1, 0), (1, 1))),
    ("addition", "gate", ADDITIONS),
    ("addition", None, ADDITIONS),
    ("addition", ["sum"], ADDITIONS),
    ("width", 0, POSITIVE),
    ("width", 2.5, POSITIVE),
    ("widening", -1, POSITIVE),
    ("groups", 0, POSITIVE),
    ("width_per_group", "4", POSITIVE),
    ("squeeze_excitation", 0, POSITIVE),
    ("squeeze_excitation", True, POSITIVE),
    ("num_classes", -1, "an integer, 0 or larger"),
    ("num_classes", None, "an integer, 0 or larger"),
    ("activation", "mish", ACTIVATIONS),
    ("activation", None, ACTIVATIONS),
    ("norm", "layer", "'batch', None, or a factory"),
    ("norm", True, "'batch', None, or a factory"),
    ("bn_momentum", 1.0, FRACTION),
    ("bn_momentum", -0.1, FRACTION),
    ("bn_momentum", "0.9", FRACTION),
    ("bn_momentum", True, FRACTION),
    ("bn_momentum", float("nan"), FRACTION),
    ("bn_epsilon", -1e-5, FRACTION),
    ("output_stride", 2, (4,)),
    ("output_stride", 3, (4,)),
    ("output_stride", 64, (4,)),
    ("output_stride", True, (4,)),
    ("dtype", "int32", FLOATS),
    ("dtype", "float99", FLOATS),
    ("dtype", None, FLOATS),
    ("param_dtype", None, FLOATS),
    ("param_dtype", "int8", FLOATS),
    ("use_bias", 1, "True or False"),
    ("frozen_bn", "yes", "True or False"),
    ("zero_init_residual", None, "True or False"),
    ("scan", 0, "True or False"),
    ("remat", "all", "True or False"),
  ],
)
def test_a_value_that_a_field_cannot_have_is_refused_before_anything_is_traced(
  field, value, allowed
):
  fields = {"stage_sizes": (1,)} | {field: value}
  refused(lambda: ResNet(**fields), f"{field}={value!r}: expected", allowed)


@pytest.mark.parametrize(
  ("field", "value", "allowed"),
  [
    ("stage_sizes", 3, "a tuple of positive integers"),
    ("hidden_features", (0,), "a tuple of positive integers"),
    ("width", 0, POSITIVE),
    ("dropout", 1.0, FRACTION),
    ("dropout", -0.5, FRACTION),
    ("head", "mean", ("avg", "max", "flatten", "none")),
    ("activation", "mish", ACTIVATIONS),
    ("norm", "group", "'batch', None, or a factory"),
    ("remat", 1, "True or False"),
    ("conv_padding", "valid", ("symmetric", "same")),
    ("dtype", "complex64", FLOATS),
  ],
)
def test_a_value_that_a_field_of_vgg_cannot_have_is_refused(field, value, allowed):
  fields = {"stage_sizes": (1,)} | {field: value}
  refused(lambda: VGG(**fields), f"{field}={value!r}: expected", allowed)


@pytest.mark.parametrize(
  ("fields", "contents"),
  [
    ({"stride_in": "3x3"}, ("stride_in='3x3'", "only bottleneck blocks", "block='basic'")),
    ({"groups": 32}, ("groups=32", "only bottleneck blocks", "block='basic'")),
    ({"width_per_group": 4}, ("width_per_group=4", "only bottleneck blocks", "block='basic'")),
    (
      {"projection": "pool_conv", "shortcut": "A"},
      ("projection='pool_conv'", "shortcut='A'", "B and C do"),
    ),
    (
      {"projection": "pool_conv", "shortcut": None},
      ("projection='pool_conv'", "shortcut=None", "B and C do"),
    ),
    (
      {"addition": "scaled", "shortcut": None},
      ("addition='scaled'", "plain", "shortcut=None", "adds nothing"),
    ),
    ({"addition_parameters": (0.5,)}, ("addition_parameters=(0.5,)", "'sum' takes none")),
    (
      {"addition": "scaled", "addition_parameters": (0.5,)},
      ("addition_parameters=(0.5,)", "'scaled' takes", ("shortcut_scale", "branch_scale")),
    ),
    (
      {"addition": "exclusive_gate", "addition_parameters": (1.0, 2.0)},
      ("addition_parameters=(1.0, 2.0)", "'exclusive_gate' takes", ("initial_bias",)),
    ),
    (
      {"addition": "dropout", "addition_parameters": (0.1, 0.2)},
      ("addition_parameters=(0.1, 0.2)", "'dropout' takes", ("rate",)),
    ),
    (
      {"addition": "scaled", "addition_parameters": 0.5},
      ("addition_parameters=0.5", "'scaled' takes", ("shortcut_scale", "branch_scale")),
    ),
    (
      {"addition": "scaled", "addition_parameters": (0.5, "1")},
      ("addition_parameters='1'", "a finite number"),
    ),
    *(
      (
        {"addition": "dropout", "addition_parameters": (rate,)},
        (f"addition_parameters={rate}", FRACTION),
      )
      for rate in (-0.5, 1.0, 1.5, float("nan"))
    ),
    (
      {"block": "bottleneck", "width_per_group": 1, "width": 16},
      ("width_per_group=1", "width of 16", "no channels", "at least 4"),
    ),
    (
      {"stem": "cifar", "pool_padding": (1, 1)},
      ("pool_padding=(1, 1)", "stem='cifar'", "no pooling"),
    ),
    ({"stem": "deep", "width": 1}, ("width=1", "deep stem", "at least 2")),
    (
      {"zero_init_residual": True, "norm": None},
      ("zero_init_residual=True", "norm=None", "no scale"),
    ),
    (
      {"zero_init_residual": True, "shortcut": None},
      ("zero_init_residual=True", "plain", "shortcut=None"),
    ),
    ({"frozen_bn": True, "norm": None}, ("frozen_bn=True", "norm=None")),
    ({"bn_momentum": 0.99, "norm": None}, ("bn_momentum=0.99", "norm=None")),
    ({"bn_epsilon": 1e-3, "norm": None}, ("bn_epsilon=0.001", "norm=None")),
  ],
)
def test_fields_that_do_not_go_together_are_refused_with_the_reason(fields, contents):
  refused(lambda: ResNet((1,), **fields), *contents)


@pytest.mark.parametrize(
  "order", ["norm_after_addition", "relu_before_addition", "full_preactivation"]
)
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_branches_that_would_start_at_zero_and_stay_there_are_refused(order, block):
  refused(
    lambda: initialise(small(block=block, order=order, zero_init_residual=True)),
    "zero_init_residual=True",
    f"order={order!r}",
    ("original", "relu_only_preactivation"),
  )


@pytest.mark.parametrize(
  ("fields", "strides"),
  [
    ({"stage_sizes": (1, 1, 1, 1)}, (4, 8, 16, 32)),
    ({"stage_sizes": (1, 1, 1), "stem": "cifar"}, (1, 2, 4)),
    ({"stage_sizes": (1, 1), "stem": "deep"}, (4, 8)),
  ],
)
def test_output_strides_are_those_between_the_stem_and_the_last_stage(fields, strides):
  for stride in strides:
    ResNet(output_stride=stride, **fields)
  for stride in {1, 2, 3, 4, 8, 16, 32, 64} - set(strides):
    refused(
      lambda stride=stride: ResNet(output_stride=stride, **fields),
      f"output_stride={stride}: expected one of",
      strides,
    )


@pytest.mark.parametrize(
  ("shape", "dtype", "contents"),
  [
    ((8, 8, 3), "float32", ("images of shape (8, 8, 3)", "(N, H, W, C)")),
    ((1, 2, 8, 8, 3), "float32", ("images of shape (1, 2, 8, 8, 3)", "(N, H, W, C)")),
    ((), "float32", ("images of shape ()", "(N, H, W, C)")),
    ((2, 8, 8, 3), "uint8", ("images of dtype uint8", "floats")),
    ((2, 8, 8, 3), "int32", ("images of dtype int32", "floats")),
    ((2, 8, 8, 3), "bool", ("images of dtype bool", "floats")),
    ((2, 8, 8, 3), "complex64", ("images of dtype complex64", "floats")),
    ((2, 3, 8, 3), "float32", ("images of 3x8 pixels", "(2, 3, 8, 3)", "N, H, W, C", "4x4")),
    ((2, 8, 1, 3), "float32", ("images of 8x1 pixels", "at least 4x4")),
    ((2, 3, 32, 32), "float32", ("images of 3x32 pixels", "N, H, W, C", "at least 4x4")),
    ((2, 0, 0, 3), "float32", ("images of 0x0 pixels", "at least 4x4")),
    ((2, 8, 8, 0), "float32", ("images of shape (2, 8, 8, 0)", "at least one channel")),
  ],
)
@pytest.mark.parametrize("network", ["resnet", "vgg"])
def test_images_of_another_rank_dtype_or_size_are_refused(network, shape, dtype, contents):
  model = small(stage_sizes=(1, 1, 1)) if network == "resnet" else VGG((1, 1), 4)
  refused(lambda: initialise(model, shape, dtype), *contents)


@pytest.mark.parametrize(
  ("model", "smallest"),
  [
    (small(stage_sizes=(1, 1, 1)), 4),
    (small(stage_sizes=(1, 1), stem="imagenet"), 8),
    (small(stage_sizes=(1, 1), stem="deep"), 8),
    (small(stage_sizes=(1, 1), stem="imagenet", output_stride=4), 4),
    (small(stage_sizes=(1, 1, 1), output_stride=2), 2),
    (VGG((1, 1, 1), 4, hidden_features=(5,)), 8),
    (create("resnet50"), 32),
    (create("vgg16"), 32),
  ],
)
def test_the_smallest_images_are_those_of_one_last_pixel(model, smallest):
  initialise(model, (1, smallest, smallest, 3))
  refused(
    lambda: initialise(model, (1, smallest, smallest - 1, 3)),
    f"images of {smallest}x{smallest - 1} pixels",
    f"divides them by {smallest}",
    f"at least {smallest}x{smallest}",
  )


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("stem", ["imagenet", "cifar", "deep"])
def test_images_of_other_channels_than_the_parameters_are_refused(stem, channels, scan):
  model = small(stage_sizes=(3,), stem=stem, scan=scan)
  variables = initialise(model)
  x = jnp.zeros((2, 8, 8, channels))
  refused(
    lambda: jax.eval_shape(model.apply, variables, x),
    f"(2, 8, 8, {channels}) has {channels} channels",
    "stem/conv",
    "takes 3",
  )


@pytest.mark.parametrize("part", [Conv(6, 1), Conv(6, 3), Conv(6, 3, groups=3)])
def test_a_convolution_refuses_other_channels(part):
  variables = initialise(part, (1, 4, 4, 3))
  refused(
    lambda: jax.eval_shape(part.apply, variables, jnp.zeros((1, 4, 4, 6))),
    "has 6 channels",
    "this convolution takes 3",
  )


def test_a_block_names_the_convolution_that_does_not_fit():
  block = BasicBlock(4, shortcut=None)
  variables = initialise(block, (1, 4, 4, 3))
  refused(
    lambda: jax.eval_shape(
      functools.partial(block.apply, mutable=["batch_stats"]), variables, jnp.zeros((1, 4, 4, 5))
    ),
    "has 5 channels",
    "conv1 takes 3",
  )


@pytest.mark.parametrize(
  ("function", "depth", "contents"),
  [
    *(
      (cifar_fields, depth, (f"depth={depth}:", "6n+2 layers", "8, 14, 20"))
      for depth in (-4, 0, 2, 9, 18, 51, 20.0)
    ),
    *(
      (preactivation_cifar_fields, depth, (f"depth={depth}:", "9n+2 layers", "11, 20, 29"))
      for depth in (2, 10, 111, 1000)
    ),
  ],
)
def test_depths_that_no_cifar_network_has_are_refused(function, depth, contents):
  refused(lambda: function(depth), *contents)


def test_a_depth_that_is_no_number_is_refused():
  refused(lambda: cifar_fields("20"), "depth='20':", "6n+2 layers")


@pytest.mark.parametrize("function", [create, image_shape])
@pytest.mark.parametrize(
  ("name", "hint"),
  [
    ("resnet51", "resnet50"),
    ("ResNet-50", "resnet50"),
    ("vgg11", "vgg16"),
    ("plain34s", "plain34"),
    ("RESNET50", "did you mean resnet50?"),
    ("resnet26", "26 layers are 6n+2, so for CIFAR it is resnet20 with stage_sizes=(4, 4, 4)"),
    ("plain26", "plain20 with stage_sizes=(4, 4, 4), those of cifar_fields(26)"),
    ("resnext50", "resnet50 with groups=32, width_per_group=4"),
    ("wide_resnet50", "resnet50 with width_per_group=128"),
  ],
)
def test_an_unknown_network_is_refused_with_one_that_is_near(function, name, hint):
  refused(lambda: function(name), f"{name!r}", hint)


@pytest.mark.parametrize("name", [None, 50, ["resnet50"]])
def test_a_name_that_is_no_text_is_refused(name):
  refused(lambda: create(name), f"name={name!r}", "'resnet50'")


def test_images_that_are_no_array_are_refused():
  model = small()
  refused(lambda: model.init(jax.random.key(0), [[[[1.0]]]]), "images of type list", "an array")


@pytest.mark.parametrize("field", ["dtype", "param_dtype"])
@pytest.mark.parametrize("network", [ResNet, VGG])
def test_float64_is_refused_where_jax_would_compute_in_float32(network, field):
  model = network((1,), width=4, num_classes=3, **{field: "float64"})
  refused(lambda: initialise(model), f"{field}='float64'", "jax_enable_x64", "JAX_ENABLE_X64=1")
  with jax.enable_x64(True):
    initialise(model)


@pytest.mark.parametrize(
  ("module", "shape", "contents"),
  [
    ("resnet20", (32, 32, 3), ("module='resnet20'", "models.create")),
    *(
      (small(), shape, (f"input_shape={shape!r}", "(height, width, channels)", "batch axis"))
      for shape in (32, (32, 32), (1, 32, 32, 3))
    ),
    (Conv(4, 3), (1, 32, 32, 3), ("input of shape (1, 1, 32, 32, 3)", "(N, H, W, C)")),
    (Conv(4, 3), (8.0, 8, 3), ("input_shape=8.0", POSITIVE)),
  ],
)
def test_cost_names_what_it_cannot_count(module, shape, contents):
  refused(lambda: cost(module, shape), *contents)


@pytest.mark.parametrize(
  ("norm", "more", "contents"),
  [
    (nn.GroupNorm, {}, ("norm=GroupNorm", "'use_running_average'")),
    (nn.LayerNorm, {}, ("norm=LayerNorm", "'use_running_average'")),
    (
      lambda use_running_average, **rest: nn.GroupNorm(num_groups=1, **rest),
      {"bn_momentum": 0.9},
      ("use_running_average, dtype, param_dtype, momentum, name", "'momentum'"),
    ),
  ],
)
def test_a_norm_that_cannot_be_called_is_refused_with_one_that_can(norm, more, contents):
  example = "lambda use_running_average, **rest: nn.GroupNorm(num_groups=8, **rest)"
  with pytest.raises(ValueError) as error:
    initialise(small(norm=norm, **more))
  for content in (*contents, example):
    assert content in str(error.value)


def test_a_norm_that_is_made_already_is_refused():
  refused(
    lambda: small(norm=BatchNorm()), "norm=BatchNorm(…): expected 'batch', None, or a factory"
  )


def test_a_class_of_activations_is_refused_where_an_instance_is_meant():
  refused(lambda: small(activation=nn.PReLU), "activation=PReLU", FUNCTION)
  initialise(small(activation=nn.PReLU()))


@pytest.mark.parametrize(
  ("module", "shape", "contents"),
  [
    (BasicBlock(4, order="post"), (1, 4, 4, 4), ("order='post'", ORDERS)),
    (BottleneckBlock(8, stride_in="5x5"), (1, 4, 4, 8), ("stride_in='5x5'", ("1x1", "3x3"))),
    (
      Conv(4, 3, groups=3),
      (1, 4, 4, 4),
      ("groups=3", "divide the 4 input and the 4 output channels"),
    ),
    (BasicBlock(8), (1, 4, 4, 4), ("4 channels into 8 at stride 1", "ProjectionShortcut")),
    (BasicBlock(4, 2), (1, 4, 4, 4), ("4 channels into 4 at stride 2", "ZeroPadShortcut")),
    (Stage(transition="end"), (1, 4, 4, 64), ("transition='end'", ("first", "last"))),
    (Stage(shortcut="D"), (1, 4, 4, 64), ("shortcut='D'", ("A", "B", "C", None))),
    (Stage(features=2, shortcut="A"), (1, 4, 4, 4), ("reduce 4 channels to 2",)),
    (Stem(4, "mnist"), (1, 8, 8, 3), ("kind='mnist'", ("imagenet", "cifar", "deep"))),
    (Conv(4, 2), (1, 4, 4, 3), ("kernel_size=2", "odd")),
    (Conv(4, 3, groups=2), (1, 4, 4, 3), ("groups=2", "3 input and the 4 output channels")),
    (Conv(5, 3, groups=3), (1, 4, 4, 3), ("groups=3", "3 input and the 5 output channels")),
    (Conv(4, 3, padding="valid"), (1, 4, 4, 3), ("padding='valid'", ("symmetric", "same"))),
    (
      Residual(lambda x: x[..., :1]),
      (1, 4, 4, 8),
      ("shortcut of shape (1, 4, 4, 8)", "branch of (1, 4, 4, 1)"),
    ),
  ],
  ids=lambda value: type(value).__name__ if hasattr(value, "scope") else None,
)
def test_a_part_names_the_field_that_cannot_be_so(module, shape, contents):
  refused(lambda: initialise(module, shape), *contents)


BLOCK = functools.partial(BasicBlock, 4)
MAPS = (1, 4, 4, 4)


@pytest.mark.parametrize(
  ("module", "shape", "contents"),
  [
    (BasicBlock(0), MAPS, ("features=0", POSITIVE)),
    (BasicBlock(4.0), MAPS, ("features=4.0", POSITIVE)),
    (BLOCK(stride=0), MAPS, ("stride=0", POSITIVE)),
    (BLOCK(shortcut="B"), MAPS, ("shortcut='B'", FACTORY)),
    (BLOCK(shortcut=IdentityShortcut(4)), MAPS, ("shortcut=IdentityShortcut(…)", FACTORY)),
    (BLOCK(norm=None), MAPS, ("norm=None", FACTORY)),
    (BLOCK(norm="batch"), MAPS, ("norm='batch'", FACTORY)),
    (BLOCK(norm=BatchNorm()), MAPS, ("norm=BatchNorm(…)", FACTORY)),
    (BLOCK(addition="sum"), MAPS, ("addition='sum'", FACTORY)),
    (BLOCK(attention=SqueezeExcitation()), MAPS, ("attention=SqueezeExcitation(…)", FACTORY)),
    (BLOCK(activation="relu"), MAPS, ("activation='relu'", FUNCTION)),
    (BLOCK(activation=None), MAPS, ("activation=None", FUNCTION)),
    (BLOCK(activation=nn.PReLU), MAPS, ("activation=PReLU", FUNCTION)),
    (BLOCK(), (4, 4, 4), ("input of shape (4, 4, 4)", "BasicBlock expects (N, H, W, C)")),
    (BottleneckBlock(4, groups=0), MAPS, ("groups=0", POSITIVE)),
    (BottleneckBlock(4, width_per_group=0), MAPS, ("width_per_group=0", POSITIVE)),
    (BottleneckBlock(4, width_per_group=4), MAPS, ("width_per_group=4", "at least 64")),
    (Stage(size=0), MAPS, ("size=0", POSITIVE)),
    (Stage(size=-3), MAPS, ("size=-3", POSITIVE)),
    (Stage("basic"), MAPS, ("block='basic'", FACTORY)),
    (Conv(4, (3, 3)), MAPS, ("kernel_size=(3, 3)", POSITIVE)),
    (Conv(4, 3), (4, 4), ("input of shape (4, 4)", "Conv expects (N, H, W, C)")),
    (BatchNorm(momentum=3.0), MAPS, ("momentum=3.0", FRACTION)),
    (BatchNorm(epsilon=-1.0), MAPS, ("epsilon=-1.0", FRACTION)),
    (ProjectionShortcut(4, kind="x"), MAPS, ("kind='x'", ("conv", "pool_conv"))),
    (SqueezeExcitation(0), MAPS, ("reduction=0", POSITIVE)),
    (VGGStage(0, 3), MAPS, ("size=0", POSITIVE)),
    (Stem(4, pool_padding=(2, 2)), MAPS, ("pool_padding=(2, 2)", "(0, 0), (0, 1)")),
    (Residual("x"), MAPS, ("branch='x'", FUNCTION)),
    (Residual(nn.Dense(4), activation="relu"), MAPS, ("activation='relu'", FUNCTION)),
    (Residual(nn.Dense(4), addition=Addition), MAPS, ("addition=Addition", FUNCTION)),
  ],
)
def test_a_part_names_what_it_cannot_be(module, shape, contents):
  refused(lambda: initialise(module, shape), *contents)


@pytest.mark.parametrize(
  ("name", "parameters", "contents"),
  [
    ("mean", (), ("addition='mean'", ADDITIONS)),
    ("sum", (1.0,), ("addition_parameters=(1.0,)", "'sum' takes none")),
    ("scaled", (1.0, 2.0, 3.0), ("addition_parameters=(1.0, 2.0, 3.0)", "shortcut_scale")),
  ],
)
def test_an_addition_names_what_it_takes(name, parameters, contents):
  refused(lambda: select_addition(name, parameters), *contents)


@pytest.mark.parametrize("group", [0, -2, 3, 16])
def test_groups_of_batch_norm_that_do_not_fit_are_refused(group):
  norm, x = BatchNorm(group=group), np.zeros((8, 4), np.float32)
  variables = initialise(BatchNorm(), x.shape)
  apply = functools.partial(norm.apply, mutable=["batch_stats"])
  message = refused(lambda: jax.eval_shape(apply, variables, x), f"groups of {group} examples")
  assert re.search("at least 1|must divide", message)


def test_an_empty_batch_can_be_evaluated_and_not_trained_on():
  model = small()
  variables = initialise(model)
  images = jnp.zeros((0, 8, 8, 3))
  assert jax.eval_shape(model.apply, variables, images).shape == (0, 3)
  train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
  refused(lambda: jax.eval_shape(train, variables, images), "0 examples", "at least 1")


def test_a_field_that_a_network_has_not_is_refused_with_those_it_has():
  with pytest.raises(ValueError, match="network vgg16 has no field 'shortcut': its fields are"):
    create("vgg16", shortcut="A")
  with pytest.raises(ValueError, match="network resnet18 has no field 'hidden_features'"):
    create("resnet18", hidden_features=(3,))
