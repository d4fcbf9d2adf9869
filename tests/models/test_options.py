"""Every option on every network: what it makes of the network, or why it is refused.

Rows are the networks of the catalog, made small; columns are the values of each field. A cell is
refused for a reason in REFUSED, or has exactly the variables and outputs that the reference below
derives from the fields, and another program than without the option, unless EQUAL says why not. A
field that PROGRAMS lacks, or a value that nothing lists, fails a test here.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import random
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import VGG, BatchNorm, ResNet, create, names

IMAGES = (2, 24, 16, 3)
FLOATS = ("float32", "bfloat16", "float16", "float64")
# Values that the types of fields do not list. Those that a network has already change nothing.
VALUES = {
  "stage_sizes": ((2, 1),),
  "width": (6,),
  "widening": (2,),
  "groups": (2,),
  "width_per_group": (128,),
  "addition_parameters": ((1.0, 0.5), (0.25,)),
  "squeeze_excitation": (2,),
  "output_stride": (1, 4),
  "num_classes": (0, 5),
  "norm": (functools.partial(BatchNorm, group=1, epsilon=2e-3),),
  "bn_momentum": (0.5,),
  "bn_epsilon": (1e-3,),
  "activation": (jnp.cos,),
  "pool_padding": ((0, 0), (0, 1), (1, 0), (1, 1)),
  "dtype": FLOATS,
  "param_dtype": FLOATS,
  "hidden_features": ((), (7,)),
  "dropout": (0.0, 0.25),
}
# What a field needs beside it, where it is refused by itself or says less.
COMPANIONS = (
  *((name, {"block": "bottleneck"}) for name in ("stride_in", "groups", "width_per_group")),
  *(
    ("addition_parameters", {"addition": addition})
    for addition in ("scaled", "exclusive_gate", "shortcut_gate", "dropout")
  ),
  ("projection", {"shortcut": "C"}),
  ("zero_init_residual", {"order": "relu_only_preactivation"}),
  *((name, {"norm": "batch"}) for name in ("bn_momentum", "bn_epsilon", "frozen_bn")),
)
# Which programs a field changes: that which initialises and evaluates, and that of training.
BOTH = {"evaluation", "training"}
PROGRAMS = {
  "stage_sizes": BOTH,
  "block": BOTH,
  "width": BOTH,
  "widening": BOTH,
  "groups": BOTH,
  "width_per_group": BOTH,
  "stem": BOTH,
  "shortcut": BOTH,
  "projection": BOTH,
  "addition": BOTH,
  "addition_parameters": BOTH,
  "order": BOTH,
  "stride_in": BOTH,
  "transition": BOTH,
  "squeeze_excitation": BOTH,
  "output_stride": BOTH,
  "hidden_features": BOTH,
  "dropout": {"training"},
  "head": BOTH,
  "num_classes": BOTH,
  "use_bias": BOTH,
  "norm": BOTH,
  "bn_momentum": {"training"},
  "bn_epsilon": BOTH,
  "frozen_bn": {"training"},
  "zero_init_residual": {"evaluation"},
  "activation": BOTH,
  "conv_padding": BOTH,
  "pool_padding": BOTH,
  "dtype": BOTH,
  "param_dtype": BOTH,
  "scan": BOTH,
  "remat": BOTH,
}
# How many parameters each addition takes.
ADDITIONS = {"sum": 0, "scaled": 2, "exclusive_gate": 1, "shortcut_gate": 1, "dropout": 1}
BRANCH_ENDS_WITH_NORM = ("original", "relu_only_preactivation")
PREACTIVATIONS = ("relu_only_preactivation", "full_preactivation")
Fields = dict[str, Any]


class Rule(NamedTuple):
  """Something that holds of some networks: `holds(fields)`, and why."""

  reason: str
  holds: Callable[[Fields], Any]


class Equal(NamedTuple):
  """The programs that a field leaves as they are, on some networks: `holds(fields)`, and why."""

  field: str
  programs: set[str]
  reason: str
  holds: Callable[[Fields], Any]


def basic(fields):
  return fields.get("block") == "basic"


def plain(fields):
  return fields.get("shortcut", "none") is None


def from_zero(fields):
  return fields.get("zero_init_residual", False)


# Of the networks that a ValueError refuses: what it says, as a regular expression.
REFUSED = (
  Rule(
    "pool_padding=.*has no pooling",
    lambda f: f.get("stem") == "cifar" and f["pool_padding"] != (0, 1),
  ),
  Rule("stride_in='3x3': only bottleneck", lambda f: basic(f) and f["stride_in"] != "1x1"),
  Rule("groups=2: only bottleneck", lambda f: basic(f) and f["groups"] != 1),
  Rule("width_per_group=128: only bottleneck", lambda f: basic(f) and f["width_per_group"] != 64),
  Rule(
    "projection='pool_conv': .* projects nowhere",
    lambda f: f.get("projection") == "pool_conv" and f["shortcut"] not in ("B", "C"),
  ),
  Rule("addition=.*: a plain network", lambda f: plain(f) and f["addition"] != "sum"),
  Rule(
    "addition_parameters=.*: addition '.*' takes",
    lambda f: (
      bool(f.get("addition_parameters"))
      and len(f["addition_parameters"]) != ADDITIONS[f["addition"]]
    ),
  ),
  Rule("zero_init_residual=True: a plain network", lambda f: from_zero(f) and plain(f)),
  Rule("zero_init_residual=True: with norm=None", lambda f: from_zero(f) and f["norm"] is None),
  Rule(
    "zero_init_residual=True: with order=.* no branch ends with the norm",
    lambda f: from_zero(f) and f["order"] not in BRANCH_ENDS_WITH_NORM,
  ),
  Rule(
    "bn_momentum=.* no batch norm", lambda f: f["norm"] is None and f["bn_momentum"] is not None
  ),
  Rule("bn_epsilon=.* no batch norm", lambda f: f["norm"] is None and f["bn_epsilon"] is not None),
  Rule("frozen_bn=True.* no batch norm", lambda f: f["norm"] is None and f["frozen_bn"]),
  Rule(
    "output_stride=.*: expected one of",
    lambda f: f.get("output_stride") is not None and f["output_stride"] not in strides(f),
  ),
)
# Of the networks on which a field leaves programs as they are, which it changes elsewhere.
EQUAL = (
  Equal(
    "conv_padding",
    BOTH,
    "the two differ only where a kernel larger than 1x1 strides",
    lambda f: f.get("stem", "cifar") == "cifar" and not basic(f) and f.get("stride_in") != "3x3",
  ),
  Equal(
    "order",
    BOTH,
    "what stands before or after an addition does so likewise where there is none",
    lambda f: plain(f) and f["order"] not in PREACTIVATIONS,
  ),
  *(
    Equal(field, {"evaluation"}, "only training drops", lambda f: f.get("addition") == "dropout")
    for field in ("addition", "addition_parameters")
  ),
  Equal(
    "addition_parameters",
    {"training"},
    "a gate's bias is where it starts",
    lambda f: f["addition"].endswith("gate"),
  ),
)


def strides(fields):
  """Pixels of the image for each of every stage's output."""
  first = 1 if fields["stem"] == "cifar" else 4
  return [first * 2**i for i in range(len(fields["stage_sizes"]))]


def refusals(fields):
  """Why a network is refused; nothing where it is not."""
  return [rule.reason for rule in REFUSED if rule.holds(fields)]


# The networks, small.


def small(name):
  more = {"hidden_features": (8, 8)} if name.startswith("vgg") else {}
  return create(name, stage_sizes=(1, 2), width=4, num_classes=3, **more)


def fields_of(model):
  own = (field.name for field in dataclasses.fields(model))
  return {name: getattr(model, name) for name in own if name not in ("parent", "name")}


@functools.cache
def hints_of(network):
  return typing.get_type_hints(network)


def values_of(network, field):
  """The values of a field: those that its type lists, and those of VALUES."""

  def listed(hint):
    if hint is bool:
      return [False, True]
    if hint is type(None):
      return [None]
    if typing.get_origin(hint) is Literal:
      return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
      return [value for part in typing.get_args(hint) for value in listed(part)]
    return []

  found = [*listed(hints_of(network)[field]), *VALUES.get(field, ())]
  return [value for i, value in enumerate(found) if value not in found[:i]]


@functools.cache
def columns(network):
  """(field, value, companions) of all columns of a network's table."""
  names_of = fields_of(network((1,)))
  alone = [(name, {}) for name in names_of]
  pairs = [(name, more) for name, more in COMPANIONS if {name, *more} <= {*names_of}]
  return [(name, value, more) for name, more in alone + pairs for value in values_of(network, name)]


# What a network should be: derived from its fields, without anything of the package.


def reference(model):
  """Shape and dtype of each variable, of each feature map and of the output."""
  fields = fields_of(model)
  tree, maps, output = (_resnet if isinstance(model, ResNet) else _vgg)(fields)
  param_dtype = jnp.dtype(fields["param_dtype"])
  variables = {}
  for path, shape in _flat(tree).items():
    variables["params", *path] = (shape, param_dtype)
    if path[-1] == "scale":
      for name in ("mean", "var"):
        variables["batch_stats", *path[:-1], name] = (shape, _wide(param_dtype))
  dtype = jnp.dtype(fields["dtype"])
  features = {name: (shape, dtype) for name, shape in maps.items()}
  last = list(features.values())[-1]
  return variables, features, last if output is None else (output, _wide(dtype))


def _wide(dtype):
  return jnp.promote_types(dtype, jnp.float32)


def _flat(tree, path=()):
  if not isinstance(tree, dict):
    return {path: tree}
  return {key: leaf for name in tree for key, leaf in _flat(tree[name], (*path, name)).items()}


def _conv(fields, inputs, outputs, size, groups=1):
  bias = {"bias": (outputs,)} if fields["use_bias"] else {}
  return {"kernel": (size, size, inputs // groups, outputs)} | bias


def _dense(inputs, outputs):
  return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _norms(fields, channels):
  """Norms by name, given the channels of each."""
  norms = {name: {"scale": (c,), "bias": (c,)} for name, c in channels.items()}
  return {} if fields["norm"] is None else norms


def _head(fields, shape, hidden=()):
  """Dense layers after the last feature map, and the shape of the output, None for the map."""
  if fields["head"] == "none":
    return {}, None
  n, height, width, channels = shape
  layers, features = {}, channels * (height * width if fields["head"] == "flatten" else 1)
  sizes = {f"hidden{i + 1}": size for i, size in enumerate(hidden)}
  for name, size in (sizes | {"head": fields["num_classes"]}).items():
    if size:
      layers[name] = _dense(features, size)
      features = size
  return layers, (n, features)


def _vgg(fields):
  n, height, width, channels = IMAGES
  tree, maps = {}, {}
  for i, size in enumerate(fields["stage_sizes"]):
    stage, features = {}, fields["width"] * min(2**i, 8)
    for number in range(1, size + 1):
      stage[f"conv{number}"] = _conv(fields, channels, features, 3)
      stage |= _norms(fields, {f"norm{number}": features})
      channels = features
    height, width = height // 2, width // 2
    tree[f"stage{i + 1}"], maps[f"stage{i + 1}"] = stage, (n, height, width, channels)
  layers, output = _head(fields, (n, height, width, channels), fields["hidden_features"])
  return tree | layers, maps, output


def _resnet(fields):
  tree, shape = _stem(fields)
  maps, last = {"stem": shape}, fields["output_stride"] or strides(fields)[-1]
  for i, size in enumerate(fields["stage_sizes"]):
    grows = i > 0 and strides(fields)[i] <= last
    stage, outputs = {}, _channels(fields, i)
    transition = 1 if fields["transition"] == "first" else size
    for number in range(1, size + 1):
      changes = number == transition
      features = outputs if changes else shape[-1]
      projects = fields["shortcut"] == "C" or (
        fields["shortcut"] == "B" and changes and (grows or features != shape[-1])
      )
      active = fields["stem"] != "cifar" or (i, number) != (0, 1)
      stage[f"block{number}"] = _block(fields, shape[-1], features, projects, active)
      shape = (*shape[:-1], features)
    if grows:
      shape = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3])
    repeated = [f"block{number}" for number in range(2, size + 1) if number != transition]
    if fields["scan"] and repeated:
      assert all(stage[name] == stage[repeated[0]] for name in repeated)
      stage["blocks"] = _stacked(stage[repeated[0]], len(repeated))
      stage = {name: block for name, block in stage.items() if name not in repeated}
    tree[f"stage{i + 1}"], maps[f"stage{i + 1}"] = stage, shape
  if fields["order"] == "full_preactivation":
    tree |= _norms(fields, {"norm": shape[-1]})
  layers, output = _head(fields, shape)
  return tree | layers, maps, output


def _channels(fields, stage):
  """Of the output of a stage."""
  return fields["width"] * fields["widening"] * 2**stage * (1 if basic(fields) else 4)


def _stem(fields):
  n, height, width, channels = IMAGES
  features = fields["width"]
  if fields["stem"] == "deep":
    outputs = {"1": features // 2, "2": features // 2, "3": features}
  else:
    outputs = {"": features}
  layers = {}
  for number, out in outputs.items():
    layers[f"conv{number}"] = _conv(fields, channels, out, 7 if fields["stem"] == "imagenet" else 3)
    channels = out
  layers |= _norms(fields, {f"norm{number}": out for number, out in outputs.items()})
  if fields["stem"] != "cifar":
    padding = sum(fields["pool_padding"])
    height, width = ((size // 2 + padding - 3) // 2 + 1 for size in (height, width))
  return {"stem": layers}, (n, height, width, features)


def _block(fields, inputs, outputs, projects, active):
  full = fields["order"] == "full_preactivation"
  layers = [(inputs, outputs, 3), (outputs, outputs, 3)]
  if not basic(fields):
    inner = max(outputs // 4 * fields["width_per_group"] // 64, 1) * fields["groups"]
    layers = [(inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)]
  block, norms = {}, {}
  for number, (before, after, size) in enumerate(layers, 1):
    groups = 1 if size == 1 else fields["groups"]
    block[f"conv{number}"] = _conv(fields, before, after, size, groups)
    norms[f"norm{number}"] = before if full else after
  if full and not active:
    del norms["norm1"]
  block |= _norms(fields, norms)
  if projects:
    norm = {} if full else _norms(fields, {"norm": outputs})
    block["shortcut"] = {"conv": _conv(fields, inputs, outputs, 1)} | norm
  if fields["addition"].endswith("gate"):
    block["addition"] = {
      "bias": (outputs,),
      "conv": _conv(fields | {"use_bias": False}, outputs, outputs, 1),
    }
  if fields["squeeze_excitation"]:
    squeezed = max(outputs // fields["squeeze_excitation"], 1)
    block["attention"] = {
      "reduce": _dense(outputs, squeezed),
      "expand": _dense(squeezed, outputs),
    }
  return block


def _stacked(tree, length):
  if isinstance(tree, dict):
    return {name: _stacked(part, length) for name, part in tree.items()}
  return (length, *tree)


# What a network is: traced, so that nothing has to be compiled.


class Traced(NamedTuple):
  """Shape and dtype of what a network has and gives, and its programs."""

  variables: dict[tuple[str, ...], Any]
  features: dict[str, Any]
  output: Any
  programs: dict[str, str]


@functools.cache
def traced(model):
  images = jax.ShapeDtypeStruct(IMAGES, "float32")
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

  def train(variables, keys, images):
    return apply(variables, images, train=True, mutable=["batch_stats"], rngs=keys)

  init, apply = (
    functools.partial(method, return_features=True)
    for method in (model.init_with_output, model.apply)
  )
  with precision(model):
    trace = functools.partial(jax.make_jaxpr, return_shape=True)
    evaluation, ((output, features), variables) = trace(init)(keys, images)
    training, (results, updated) = trace(train)(variables, keys, images)
  assert results == (output, features), "training gives other shapes than evaluation"
  assert updated.get("batch_stats") == variables.get("batch_stats"), "statistics change their shape"
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return Traced(
    {tuple(key.key for key in path): _described(leaf) for path, leaf in leaves},
    {name: _described(feature) for name, feature in features.items()},
    _described(output),
    {"evaluation": _text(evaluation), "training": _text(training)},
  )


def precision(model):
  """The context that a network needs: float64 must be allowed."""
  if "float64" in (model.dtype, model.param_dtype):
    return jax.enable_x64(True)
  return contextlib.nullcontext()


def _described(array):
  return array.shape, array.dtype


def _text(program):
  """The same for the same programs; functions are printed with their addresses."""
  text = re.sub("0x[0-9a-f]+", "", str(program))
  return hashlib.sha256(text.encode()).hexdigest()


def assert_as_the_reference_says(model):
  variables, features, output = reference(model)
  actual = traced(model)
  assert actual.variables == variables
  assert actual.features == features
  assert actual.output == output


def assert_refused(network, fields, reasons):
  """Refused where it is made, before anything is traced, by a message that a reason predicts."""
  with pytest.raises(ValueError) as error:
    network(**fields)
  assert any(re.search(reason, str(error.value)) for reason in reasons), (error.value, reasons)


# The table.


# Networks that differ in what refusals and equal programs depend on: block, stem, shortcut, order.
# Of the others refusals are tested by default; their accepted cells, which take a minute to trace,
# are combinations of options that the networks of pairs below have too.
TRACED = ("resnet18", "preact_resnet164", "plain20", "vgg16")


def cells():
  different = {small(name): name for name in (*names(), *TRACED)}
  for model, name in different.items():
    for field, value, more in columns(type(model)):
      refused = refusals(fields_of(model) | more | {field: value})
      others = "".join(f",{key}={said(val)}" for key, val in more.items())
      yield pytest.param(
        name,
        field,
        value,
        more,
        id=f"{name}-{field}={said(value)}{others}",
        marks=() if name in TRACED or refused else pytest.mark.long,
      )


def said(value):
  return str(getattr(value, "__name__", "factory" if callable(value) else value)).replace(" ", "")


@pytest.mark.parametrize("network", [ResNet, VGG])
def test_every_field_has_values_and_programs_that_it_changes(network):
  fields = fields_of(network((1,)))
  assert [field for field in fields if field not in PROGRAMS] == []
  without = [f for f in fields if not any(v != fields[f] for v in values_of(network, f))]
  assert without == []


@pytest.mark.parametrize("name", ["preact_resnet164", "vgg16"])
def test_the_same_network_is_traced_to_the_same_programs(name):
  assert traced.__wrapped__(small(name)) == traced.__wrapped__(small(name))


@pytest.mark.parametrize("network", [ResNet, VGG])
def test_every_value_is_accepted_by_some_network_of_the_default_tests(network):
  networks = {small(name) for name in TRACED if isinstance(small(name), network)}
  accepted = {
    (field, said(value))
    for model, (field, value, more) in itertools.product(networks, columns(network))
    if not refusals(fields_of(model) | more | {field: value})
  }
  assert {(field, said(value)) for field, value, _ in columns(network)} == accepted


@pytest.mark.parametrize(("name", "field", "value", "more"), list(cells()))
def test_an_option_is_refused_for_its_reason_or_does_what_it_promises(name, field, value, more):
  model = small(name)
  fields = fields_of(model) | more | {field: value}
  reasons = refusals(fields)
  if reasons:
    assert_refused(type(model), fields, reasons)
    return
  changed = type(model)(**fields)
  assert_as_the_reference_says(changed)
  own = fields_of(model)[field]
  base = type(model)(**(fields | {field: own}))
  programs = traced(changed).programs
  differing = {kind for kind, program in traced(base).programs.items() if programs[kind] != program}
  equal = [e.programs for e in EQUAL if e.field == field and e.holds(fields)]
  promised = set() if value == own else PROGRAMS[field].difference(*equal)
  assert differing == promised


# Options together.


def options(model):
  """(field, value) of everything that a network could have otherwise."""
  own = fields_of(model)
  return [
    (field, value)
    for field in own
    for value in values_of(type(model), field)
    if value != own[field]
  ]


def pairs(model):
  """The values of two fields, as dictionaries, for all values of all two fields."""
  return [
    dict(pair) for pair in itertools.combinations(options(model), 2) if pair[0][0] != pair[1][0]
  ]


def covering(model, targets):
  """Networks of which each has many of the targets, which are fields that `model` accepts.

  Each target is in one of them.
  """
  own, left, found = fields_of(model), list(targets), []
  random.Random(0).shuffle(left)
  while left:
    chosen, rest = {}, []
    for target in left:
      fits = all(chosen.get(field, value) == value for field, value in target.items())
      if fits and not refusals(own | chosen | target):
        chosen |= target
      else:
        rest.append(target)
    found.append(chosen)
    left = rest
  return found


TOGETHER = {
  block: ResNet((1, 3), block, width=4, num_classes=3) for block in ("basic", "bottleneck")
}


@pytest.mark.parametrize("block", TOGETHER)
def test_two_options_are_refused_exactly_for_the_reasons_of_the_table(block):
  model = TOGETHER[block]
  for pair in pairs(model):
    fields = fields_of(model) | pair
    reasons = refusals(fields)
    if reasons:
      assert_refused(type(model), fields, reasons)
    else:
      type(model)(**fields)


# Basic blocks are an option of the other network.
@pytest.mark.parametrize("block", [pytest.param("basic", marks=pytest.mark.long), "bottleneck"])
def test_every_two_options_that_are_accepted_work_together(block):
  # Many pairs in each network, so that few are traced; the next test tells which pair it was.
  model = TOGETHER[block]
  own = fields_of(model)
  targets = [pair for pair in pairs(model) if not refusals(own | pair)]
  found = covering(model, targets)
  assert all(any(pair.items() <= chosen.items() for chosen in found) for pair in targets)
  for chosen in found:
    try:
      assert_as_the_reference_says(type(model)(**(own | chosen)))
    except Exception as error:
      raise AssertionError(f"{block} network with {chosen}") from error


@pytest.mark.long
@pytest.mark.parametrize("block", TOGETHER)
@pytest.mark.parametrize("field", fields_of(ResNet((1,))))
def test_every_two_options_that_are_accepted_work_by_themselves(block, field):
  model = TOGETHER[block]
  for pair in pairs(model):
    fields = fields_of(model) | pair
    if next(iter(pair)) == field and not refusals(fields):
      try:
        assert_as_the_reference_says(type(model)(**fields))
      except Exception as error:
        raise AssertionError(f"{block} network with {pair}") from error


# What options compute.

COMPUTED = {
  "basic": ResNet((1, 2), "basic", width=4, num_classes=3),
  "bottleneck": ResNet((1, 2), "bottleneck", width=4, num_classes=3),
  "preactivation": ResNet(
    (1, 2), "bottleneck", width=4, stem="cifar", num_classes=3, order="full_preactivation"
  ),
  "vgg": VGG((1, 2), width=4, hidden_features=(8, 8), num_classes=3),
}
# Of which the others are options.
COMPUTED_BY_DEFAULT = ("bottleneck", "vgg")


def computed():
  for kind, model in COMPUTED.items():
    targets = [
      more | {field: value}
      for field, value, more in columns(type(model))
      # Two activations stand for all, which `test_compiled_gradients.py` has.
      if field != "activation" or value in ("gelu", "identity")
    ]
    accepted = [target for target in targets if not refusals(fields_of(model) | target)]
    marks = () if kind in COMPUTED_BY_DEFAULT else pytest.mark.long
    for i, chosen in enumerate(covering(model, accepted)):
      yield pytest.param(model, chosen, id=f"{kind}{i}", marks=marks)


def drawn(variables):
  """Variables of the shapes and dtypes of these, none of them trivial."""
  generator = np.random.default_rng(0)

  def draw(path, leaf):
    kind, value = path[-1].key, generator.normal(size=leaf.shape)
    if kind == "kernel":
      value *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
    elif kind in ("scale", "var"):
      value = 1 + 0.1 * np.abs(value)
    else:
      value *= 0.1
    return value.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, variables)


@pytest.mark.parametrize(("model", "chosen"), list(computed()))
def test_outputs_statistics_and_gradients_are_finite_with_each_option(model, chosen):
  model = type(model)(**(fields_of(model) | chosen))
  images = np.random.default_rng(1).normal(size=IMAGES).astype(np.float32)

  @jax.jit
  def compute(variables, images, key):
    def loss(params):
      applied = {**variables, "params": params}
      output, updated = model.apply(
        applied, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
      )
      return jnp.square(output.astype("float32")).mean(), (output, updated)

    (_, results), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    return results, gradients, model.apply(variables, images)

  with precision(model):
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), images))
    results, gradients, evaluated = compute(variables, images, jax.random.key(0))
    for leaf in jax.tree.leaves((results, gradients, evaluated)):
      assert np.all(np.isfinite(np.asarray(leaf, np.float64)))
    for leaf in jax.tree.leaves((results, gradients)):
      assert np.any(np.asarray(leaf))
