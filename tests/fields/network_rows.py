"""The network of a run: shapes, and outputs of weights that make convolutions copy or scale.

A kernel that is painted copies each channel at one of its taps, times a factor; all other
parameters are zero. So what the network computes can be written down.
"""

import functools
import math
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from loop_rows import first_weights
from optimizer_rows import fits
from table import Row

from resnet_jax import devices
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.models.factories import ActivationName
from resnet_jax.training.build import build_run
from resnet_jax.training.restore import abstract_state, state_shapes

IMAGES = np.random.default_rng(0).uniform(0.1, 1, (4, 8, 8, 3)).astype(np.float32)
CENTER = (1, 1)


def shapes(config):
  """The shape of each parameter by name."""
  params = state_shapes(build_run(config)).params
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def shape(name):
  return lambda config: shapes(config)[name]


def count(pattern):
  """How many parameters have a name like that."""
  return lambda config: len([name for name in shapes(config) if fits(name, (pattern,))])


def painted(config, paint):
  """The network and its variables: zero, but what `paint` says by pattern of a name.

  A number fills; (tap, factor) copies channels at that tap of a kernel, a factor alone in a dense
  layer.
  """
  run = build_run(config)
  variables = abstract_state(run).variables

  def fill(path, leaf):
    name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
    value = next((value for pattern, value in paint.items() if fits(name, (pattern,))), 0)
    array = np.zeros(leaf.shape, leaf.dtype)
    if not isinstance(value, tuple):
      return jnp.asarray(array + value)
    (tap, factor), channels = value, range(min(leaf.shape[-2:]))
    for channel in channels:
      array[(*tap, channel, channel)] = factor
    return jnp.asarray(array)

  return run.model, jax.tree_util.tree_map_with_path(fill, variables)


def computed(config, paint, train=False):
  """Output and feature maps, the three channels that are copied alone; and the statistics."""
  model, variables = painted(config, paint)

  def apply(images):
    (output, maps), after = model.apply(
      variables,
      images,
      train=train,
      return_features=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(0)},
    )
    return output, {name: x[..., :3] for name, x in maps.items()}, after

  # The devices that the batch norms of a run average over in training.
  one_each = IMAGES.reshape(4, 1, *IMAGES.shape[1:])
  over_devices = jax.pmap if train else jax.vmap
  output, maps, after = over_devices(apply, axis_name=devices.AXIS)(one_each)
  maps = {name: np.asarray(x, np.float64)[:, 0] for name, x in maps.items()}
  return np.asarray(output)[:, 0], maps, jax.tree.map(lambda leaf: np.asarray(leaf[0]), after)


def feature(name, paint, **more):
  return lambda config: computed(config, paint, **more)[1][name]


def ratios(paint, decimals=3, **more):
  """By what a stage multiplies what it is given; each factor once."""

  def measure(config):
    _, maps, _ = computed(config, paint, **more)
    found = maps["stage1"] / IMAGES
    return np.unique(found.round(decimals))

  return measure


def outputs(config):
  """The logits of a network whose classifier copies what it is given; or that it is refused."""
  try:
    return computed(config, STEM | {"head/kernel": ((), 1.0)})[0]
  except UserError:
    return "refused"


def statistics(name, paint, of="mean"):
  def measure(config):
    _, _, after = computed(config, paint, train=True)
    node = after["batch_stats"]
    for part in name.split("/"):
      node = node[part]
    return node[of][:3]

  return measure


def dtypes(config):
  run = build_run(config)
  variables = abstract_state(run).variables
  image = jax.ShapeDtypeStruct((1, *run.dataset.image_shape), jnp.float32)
  apply = functools.partial(run.model.apply, return_features=True)
  _, maps = jax.eval_shape(apply, variables, image)
  return {
    "maps": {str(x.dtype) for x in maps.values()},
    "params": {str(leaf.dtype) for leaf in jax.tree.leaves(variables["params"])},
  }


def computed_again(config):
  """How many parts of the network are computed again in the backward pass."""
  model, variables = painted(config, {})
  text = str(jax.make_jaxpr(model.apply)(variables, IMAGES))
  return len(re.findall(r"\b(?:remat2|checkpoint)\[", text))


# The networks that are varied, and what they compute.

STEM = {"stem/conv/kernel": (CENTER, 1.0), "stage1/conv1/kernel": (CENTER, 1.0)}
EIGHT = {"data.synthetic.image_size": 8}
EVEN, ODD = IMAGES[:, ::2, ::2], IMAGES[:, 1::2, 1::2]


def resnet(field, values, measure, expect, rtol=1e-5, data=EIGHT, **fields):
  fields = {"stage_sizes": (1, 1), "width": 3, "norm": None} | fields
  fields.pop(field, None)
  beside = data | {"model": ModelConfig("resnet20", fields)}
  return Row(f"model.overrides.{field}", values, measure, expect, beside, rtol)


def vgg(field, values, measure, expect, rtol=1e-5, data=EIGHT, **fields):
  fields = {"stage_sizes": (1,), "width": 3, "hidden_features": (), "head": "avg"} | fields
  fields.pop(field, None)
  beside = data | {"model": ModelConfig("vgg16", fields)}
  return Row(f"model.overrides.{field}", values, measure, expect, beside, rtol)


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
  "relu": lambda x: np.maximum(x, 0),
  "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
  "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
  "tanh": np.tanh,
  "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
  "gelu": gelu,
  "silu": lambda x: x / (1 + np.exp(-x)),
  "identity": lambda x: x,
}
NEGATIVE = dict.fromkeys(STEM, (CENTER, -1.0))
# A branch that is three times its input; a gate that is open to three quarters.
TRIPLE = STEM | {
  "stage1/block1/conv1/kernel": (CENTER, 1.0),
  "stage1/block1/conv2/kernel": (CENTER, 3.0),
  "stage1/block1/addition/bias": math.log(3),
}
ADDITIONS = {
  "sum": [1 + 3],
  "scaled": [0.5 + 0.5 * 3],
  "exclusive_gate": [0.25 + 0.75 * 3],
  "shortcut_gate": [0.25 + 3],
  "dropout": [3, 2 + 3],
}
# Norms that multiply by 5 and 10, around convolutions by 1 and by a factor.
NORMED = STEM | {
  "*/var": 1.0,
  "stem/norm/scale": 1.0,
  "stage1/block1/norm1/scale": 5.0,
  "stage1/block1/norm2/scale": 10.0,
  "stage1/block1/conv1/kernel": (CENTER, 1.0),
}
ORDERS = {  # For factors of 2 and of -2, of an input that is positive.
  "original": [1 + 2 * 5 * 10, 0],
  "norm_after_addition": [10 * (1 + 2 * 5), 0],
  "relu_before_addition": [1 + 2 * 5 * 10, 1],
  "relu_only_preactivation": [1 + 2 * 5 * 10, 1 - 2 * 5 * 10],
  "full_preactivation": [1 + 2 * 10, 1 - 2 * 10],
}


def orders(config):
  found = [
    ratios(NORMED | {"stage1/block1/conv2/kernel": (CENTER, factor)}, decimals=1)(config)
    for factor in (2.0, -2.0)
  ]
  return [ratio.item() for ratio in found]


# Plain bottlenecks, of which the second's 3x3 convolution copies the pixel above and to the left.
SHIFTED = STEM | {
  "stage?/*/conv[13]/kernel": ((0, 0), 1.0),
  "stage1/*/conv2/kernel": (CENTER, 1.0),
  "stage2/*/conv2/kernel": ((0, 0), 1.0),
}
COPYING = STEM | {"stage?/*/conv?/kernel": (CENTER, 1.0)}
BOTTLENECK = {"block": "bottleneck", "shortcut": None}


def shifted(where):
  if where == "3x3":
    return np.pad(ODD, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :4, :4]
  return np.pad(EVEN, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :4, :4]


def max_pooled(padding):
  """The stem's pooling of every second pixel."""
  pads = ((0, 0), padding, padding, (0, 0))
  x = np.pad(EVEN, pads, constant_values=-np.inf)
  size = (x.shape[1] - 3) // 2 + 1
  return np.stack(
    [
      np.stack(
        [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(size)], axis=1
      )
      for i in range(size)
    ],
    axis=1,
  )


def projected(gain):
  return {"stem/conv/kernel": (CENTER, 1.0), "*/shortcut/conv/kernel": ((0, 0), gain)}


def second_gain(config):
  """What two stages without branches multiply every second pixel by."""
  _, maps, _ = computed(config, projected(2.0))
  return np.unique((maps["stage2"] / EVEN).round(3))


NETWORKS = {"resnet20": 20, "plain32": 32, "resnet44": 44, "vgg16": 16}
NORMAL = IMAGES.mean((0, 1, 2))
ONES = {"hidden1/bias": 1.0, "head/kernel": ((), 1.0)}


def pooled(images):
  """The largest of each two by two pixels."""
  return images.reshape(4, 4, 2, 4, 2, 3).max((2, 4))


POOLED = pooled(IMAGES)

ROWS = (
  Row(
    "model.name",
    tuple(NETWORKS),
    lambda config: count("*kernel")(config) - count("*shortcut*kernel")(config),
    NETWORKS.get,
    {"model": ModelConfig("resnet20"), "data.synthetic.image_size": 32},
  ),
)
RESNET_ROWS = (
  resnet("stage_sizes", ((1, 1), (1, 3)), count("*/conv1/kernel"), sum),
  resnet(
    "block",
    ("basic", "bottleneck"),
    count("stage1/*conv?/*"),
    {"basic": 2, "bottleneck": 3}.get,
    shortcut=None,
  ),
  resnet("width", (3, 5), shape("stem/conv/kernel"), lambda width: [3, 3, 3, width]),
  resnet("widening", (1, 4), shape("stage1/block1/conv1/kernel"), lambda k: [3, 3, 3, 3 * k]),
  resnet(
    "groups", (1, 2), shape("stage1/block1/conv2/kernel"), lambda g: [3, 3, 3, 3 * g], **BOTTLENECK
  ),
  resnet(
    "width_per_group",
    (64, 128),
    shape("stage1/block1/conv2/kernel"),
    lambda w: [3, 3, 3 * w // 64, 3 * w // 64],
    **BOTTLENECK,
  ),
  resnet(
    "stem",
    ("cifar", "imagenet", "deep"),
    lambda config: {name: s for name, s in shapes(config).items() if "stem" in name},
    {
      "cifar": {"stem/conv/kernel": [3, 3, 3, 4]},
      "imagenet": {"stem/conv/kernel": [7, 7, 3, 4]},
      "deep": {
        "stem/conv1/kernel": [3, 3, 3, 2],
        "stem/conv2/kernel": [3, 3, 2, 2],
        "stem/conv3/kernel": [3, 3, 2, 4],
      },
    }.get,
    width=4,
  ),
  resnet(
    "shortcut",
    ("B", "A", "C", None),
    second_gain,
    {"A": [1.0], "B": [2.0], "C": [4.0], None: [0.0]}.get,
  ),
  resnet(
    "projection",
    ("conv", "pool_conv"),
    feature("stage2", projected(1.0)),
    lambda kind: EVEN if kind == "conv" else IMAGES.reshape(4, 4, 2, 4, 2, 3).mean((2, 4)),
    shortcut="B",
  ),
  resnet("addition", tuple(ADDITIONS), ratios(TRIPLE, train=True), ADDITIONS.get),
  resnet(
    "addition_parameters",
    ((), (0.25, 1.0)),
    ratios(TRIPLE),
    {(): [2.0], (0.25, 1.0): [3.25]}.get,
    addition="scaled",
  ),
  resnet(
    "addition_parameters",
    ((), (0.25,)),
    ratios(TRIPLE, train=True),
    {(): [3, 5], (0.25,): [3, 4.333]}.get,
    addition="dropout",
  ),
  *(
    resnet(
      "addition_parameters",
      ((), (-2.0,)),
      lambda config: first_weights(config)["stage1/block1/addition/bias"],
      {(): [-6.0] * 3, (-2.0,): [-2.0] * 3}.get,
      addition=gate,
    )
    for gate in ("exclusive_gate", "shortcut_gate")
  ),
  resnet("order", tuple(ORDERS), orders, ORDERS.get, norm="batch", rtol=1e-3),
  resnet("stride_in", ("1x1", "3x3"), feature("stage2", SHIFTED), shifted, **BOTTLENECK),
  resnet(
    "transition",
    ("first", "last"),
    shape("stage2/block1/conv1/kernel"),
    {"first": [3, 3, 3, 6], "last": [3, 3, 3, 3]}.get,
    stage_sizes=(1, 2),
  ),
  resnet(
    "squeeze_excitation",
    (None, 2),
    lambda config: shapes(config).get("stage2/block1/attention/reduce/kernel", []),
    {None: [], 2: [6, 3]}.get,
  ),
  resnet(
    "output_stride",
    (None, 1),
    lambda config: computed(config, STEM)[1]["stage2"].shape[1],
    {None: 4, 1: 8}.get,
  ),
  resnet(
    "head",
    ("avg", "max", "flatten", "none"),
    outputs,
    {
      "avg": IMAGES.mean((1, 2)),
      "max": IMAGES.max((1, 2)),
      "flatten": IMAGES[:, 0, 0],
      "none": "refused",
    }.get,
    stage_sizes=(1,),
  ),
  resnet(
    "num_classes", (3, 4), outputs, {3: IMAGES.mean((1, 2)), 4: "refused"}.get, stage_sizes=(1,)
  ),
  resnet("use_bias", (False, True), count("*conv*bias"), {False: 0, True: 5}.get, shortcut="A"),
  resnet("norm", ("batch", None), count("*scale"), {"batch": 5, None: 0}.get, shortcut="A"),
  resnet(
    "bn_momentum",
    (None, 0.5),
    statistics("stem/norm", STEM),
    lambda m: (1 - (m or 0.9)) * NORMAL,
    norm="batch",
  ),
  resnet(
    "bn_epsilon",
    (None, 0.01),
    feature("stem", STEM | {"stem/norm/scale": 1.0}),
    lambda e: IMAGES / np.sqrt(e or 1e-5),
    norm="batch",
  ),
  resnet(
    "frozen_bn",
    (False, True),
    statistics("stem/norm", STEM),
    lambda frozen: 0 * NORMAL if frozen else 0.1 * NORMAL,
    norm="batch",
  ),
  resnet(
    "zero_init_residual",
    (False, True),
    lambda config: first_weights(config)["stage1/block1/norm2/scale"],
    {False: [1.0] * 3, True: [0.0] * 3}.get,
    norm="batch",
  ),
  resnet(
    "activation",
    get_args(ActivationName),
    feature("stem", NEGATIVE),
    lambda name: ACTIVATIONS[name](-IMAGES.astype(float)),
    stage_sizes=(1,),
  ),
  resnet(
    "conv_padding",
    ("symmetric", "same"),
    feature("stage2", COPYING),
    {"symmetric": EVEN, "same": ODD}.get,
    shortcut=None,
  ),
  resnet(
    "pool_padding",
    ((0, 1), (1, 1), (0, 0), (1, 0)),
    feature("stem", {"stem/conv/kernel": ((3, 3), 1.0)}),
    max_pooled,
    stem="imagenet",
    stage_sizes=(1,),
  ),
  resnet(
    "dtype", ("float32", "bfloat16"), dtypes, lambda dtype: {"maps": {dtype}, "params": {"float32"}}
  ),
  resnet(
    "param_dtype",
    ("float32", "bfloat16"),
    dtypes,
    lambda dtype: {"maps": {"float32"}, "params": {dtype}},
  ),
  resnet(
    "scan",
    (False, True),
    lambda config: [s for name, s in shapes(config).items() if "blocks/conv1" in name],
    {False: [], True: [[2, 3, 3, 3, 3]]}.get,
    stage_sizes=(3,),
  ),
  resnet("remat", (False, True), computed_again, {False: 0, True: 2}.get),
)
VGG_ROWS = (
  vgg("stage_sizes", ((1,), (2, 1)), count("stage*/kernel"), sum),
  vgg("width", (3, 5), shape("stage1/conv1/kernel"), lambda width: [3, 3, 3, width]),
  vgg(
    "hidden_features",
    ((), (7, 5)),
    lambda config: [
      s for name, s in shapes(config).items() if "hidden" in name and "kernel" in name
    ],
    {(): [], (7, 5): [[3, 7], [7, 5]]}.get,
  ),
  vgg(
    "dropout",
    (0.0, 0.5, 0.25),
    lambda config: computed(config, ONES, train=True)[0].max(),
    lambda rate: 1 / (1 - rate),
    hidden_features=(200,),
    data=EIGHT | {"data.synthetic.num_classes": 200},
  ),
  vgg(
    "head",
    ("avg", "max", "flatten", "none"),
    outputs,
    {
      "avg": POOLED.mean((1, 2)),
      "max": POOLED.max((1, 2)),
      "flatten": POOLED[:, 0, 0],
      "none": "refused",
    }.get,
  ),
  vgg("num_classes", (3, 4), outputs, {3: POOLED.mean((1, 2)), 4: "refused"}.get),
  vgg("use_bias", (True, False), count("*conv*bias"), {False: 0, True: 1}.get),
  vgg("norm", (None, "batch"), count("*scale"), {"batch": 1, None: 0}.get),
  vgg(
    "bn_momentum",
    (None, 0.5),
    statistics("stage1/norm1", STEM),
    lambda m: (1 - (m or 0.9)) * NORMAL,
    norm="batch",
  ),
  vgg(
    "bn_epsilon",
    (None, 0.01),
    feature("stage1", STEM | {"*/scale": 1.0}),
    lambda e: POOLED / np.sqrt(e or 1e-5),
    norm="batch",
  ),
  vgg(
    "frozen_bn",
    (False, True),
    statistics("stage1/norm1", STEM),
    lambda frozen: 0 * NORMAL if frozen else 0.1 * NORMAL,
    norm="batch",
  ),
  vgg(
    "activation",
    get_args(ActivationName),
    feature("stage1", NEGATIVE),
    lambda name: pooled(ACTIVATIONS[name](-IMAGES.astype(float))),
  ),
  vgg(
    "dtype", ("float32", "bfloat16"), dtypes, lambda dtype: {"maps": {dtype}, "params": {"float32"}}
  ),
  vgg(
    "param_dtype",
    ("float32", "bfloat16"),
    dtypes,
    lambda dtype: {"maps": {"float32"}, "params": {dtype}},
  ),
  vgg("remat", (False, True), computed_again, {False: 0, True: 1}.get),
)
# A field of VGG's that changes nothing: at stride 1 both pad a pixel on each side.
ALIKE = vgg("conv_padding", ("symmetric", "same"), feature("stage1", STEM), lambda padding: POOLED)
