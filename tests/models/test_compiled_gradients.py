"""Compiled gradients against those of one operation after another, for every option of a network.

XLA fuses operations, and may compute a value twice that the program computes once, each time with
another rounding. A derivative that compares such a value with itself (`x == x.max()`) is then
wrong, silently, and only where it is compiled. Tests that compare one compiled program with another
do not see it; operation by operation, every value is computed once.
"""

import dataclasses
import functools
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from nontrivial import random_variables

from resnet_jax.models import VGG, BatchNorm, ResNet, to_scanned, to_unrolled
from resnet_jax.models.factories import ActivationName, activation_function
from resnet_jax.models.pooling import POOL_PADDINGS, global_max_pool, max_pool_of_slices

LAYOUTS = {
  "unrolled": {},
  "scanned": {"scan": True},
  "recomputed": {"remat": True},
  "both": {"scan": True, "remat": True},
}
# One block that projects ends the network, and its output is pooled.
PROJECTING = {"stage_sizes": (1,), "shortcut": "C"}
# Rows have few sizes of images, because equal operations of different rows are compiled once.
STEM_POOLS = (17, 14)
# Fields, rows and columns of the images, and layouts, of which the first is not scanned. Together
# the rows hold every value of every field that has few, and at least two of each other:
# `test_the_rows_hold_every_option`.
Row = tuple[dict[str, Any], tuple[int, int], tuple[str, ...]]
RESNETS: dict[str, Row] = {
  "paper": ({"stem": "imagenet", "stage_sizes": (1, 1)}, STEM_POOLS, ("unrolled", "recomputed")),
  "max of a projection": (
    {"stage_sizes": (1, 1), "order": "full_preactivation", "head": "max"},
    (11, 9),
    ("unrolled", "recomputed"),
  ),
  "max of a dilated projection": (
    {"stage_sizes": (1, 1), "output_stride": 1, "order": "full_preactivation", "head": "max"},
    (11, 9),
    ("unrolled",),
  ),
  "max of pre-activated blocks": (
    {"stage_sizes": (3,), "order": "full_preactivation", "head": "max"},
    (11, 9),
    ("unrolled", "scanned", "recomputed", "both"),
  ),
  "max of sums": (
    PROJECTING | {"head": "max", "activation": "identity", "norm": None},
    (11, 9),
    ("unrolled",),
  ),
  "max of activated sums": (
    {"stage_sizes": (1, 3), "head": "max", "shortcut": "A"},
    (10, 7),
    ("unrolled", "scanned", "both"),
  ),
  "max after a norm": (
    PROJECTING
    | {
      "stem": "imagenet",
      "pool_padding": (1, 1),
      "order": "norm_after_addition",
      "head": "max",
      "addition": "scaled",
      "addition_parameters": (0.7, 0.4),
      "activation": "leaky_relu",
    },
    STEM_POOLS,
    ("unrolled",),
  ),
  "max of activated branches": (
    PROJECTING
    | {
      "order": "relu_before_addition",
      "head": "max",
      "addition": "exclusive_gate",
      "activation": "elu",
    },
    (11, 9),
    ("unrolled",),
  ),
  "max of activations": (
    {
      "stage_sizes": (4,),
      "widening": 2,
      "order": "relu_only_preactivation",
      "head": "max",
      "addition": "shortcut_gate",
      "transition": "last",
      "num_classes": 0,
    },
    (8, 9),
    ("unrolled", "scanned", "both"),
  ),
  "max of frozen norms": (
    PROJECTING | {"head": "max", "frozen_bn": True, "activation": "silu", "use_bias": True},
    (11, 9),
    ("unrolled",),
  ),
  "max in float32": (
    PROJECTING
    | {"head": "max", "order": "full_preactivation", "dtype": "float32", "param_dtype": "float32"},
    (11, 9),
    ("unrolled",),
  ),
  "max in bfloat16": (
    PROJECTING | {"head": "max", "activation": "identity", "norm": None, "dtype": "bfloat16"},
    (11, 9),
    ("unrolled",),
  ),
  "bottlenecks": (
    {
      "stage_sizes": (1, 1),
      "block": "bottleneck",
      "stride_in": "3x3",
      "groups": 2,
      "width_per_group": 128,
      "squeeze_excitation": 2,
      "addition": "dropout",
      "bn_momentum": 0.5,
      "bn_epsilon": 1e-2,
      "zero_init_residual": True,
      "head": "flatten",
      "activation": "gelu",
    },
    (11, 9),
    ("unrolled",),
  ),
  "ResNet-D": (
    {
      "stage_sizes": (1, 1),
      "stem": "deep",
      "pool_padding": (1, 0),
      "projection": "pool_conv",
      "shortcut": "C",
      "head": "none",
      "activation": "tanh",
    },
    STEM_POOLS,
    ("unrolled",),
  ),
  "plain": (
    {
      "stage_sizes": (1,),
      "stem": "imagenet",
      "width": 6,
      "shortcut": None,
      "norm": None,
      "use_bias": True,
      "conv_padding": "same",
      "pool_padding": (0, 0),
      "activation": "sigmoid",
    },
    STEM_POOLS,
    ("unrolled",),
  ),
}
VGGS: dict[str, Row] = {
  "original": ({}, (13, 11), ("unrolled", "recomputed")),
  "max of norms": (
    {"head": "max", "norm": "batch", "bn_momentum": 0.5, "bn_epsilon": 1e-2, "use_bias": False},
    (13, 11),
    ("unrolled", "recomputed"),
  ),
  "max of frozen norms": (
    {"head": "max", "norm": "batch", "frozen_bn": True, "hidden_features": (), "width": 6},
    (13, 11),
    ("unrolled",),
  ),
  "mean": (
    {
      "stage_sizes": (2,),
      "head": "avg",
      "dropout": 0.0,
      "num_classes": 0,
      "conv_padding": "same",
      "activation": "silu",
    },
    (13, 11),
    ("unrolled",),
  ),
  "feature map": (
    {"stage_sizes": (1,), "head": "none", "dtype": "float32", "param_dtype": "float32"},
    (13, 11),
    ("unrolled",),
  ),
}
ROWS = {
  f"{kind.__name__}, {name}": (kind, *row)
  for kind, rows in ((ResNet, RESNETS), (VGG, VGGS))
  for name, row in rows.items()
}
# Of the norm of a leaf, by the type that is computed in.
BOUNDS = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.05}


def network(kind, fields):
  """A small network of float64 where the fields do not say otherwise."""
  small = {"stage_sizes": (1, 1), "width": 4, "num_classes": 3}
  small |= {"hidden_features": (5,)} if kind is VGG else {"stem": "cifar"}
  return kind(**(small | {"dtype": "float64", "param_dtype": "float64"} | fields))


def settings(kind, fields):
  """The values of all fields of a row."""
  module = network(kind, fields)
  return {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name")
  }


def choices(hint):
  """The values of a type that has few: those of its `Literal`s, True and False, and None."""
  if hint is bool:
    return {True, False}
  if hint is type(None):
    return {None}
  parts = get_args(hint)
  return set(parts) if get_origin(hint) is Literal else set().union(*map(choices, parts))


def test_the_rows_hold_every_option():
  """A new field, and a new choice of one, needs a row; functions may be those of either network."""
  found: dict[str, set[Any]] = {}
  for kind, fields, _, layouts in ROWS.values():
    for layout in layouts:
      for name, value in settings(kind, fields | LAYOUTS[layout]).items():
        found.setdefault(f"{kind.__name__}.{name}", set()).add(value)
        found.setdefault(name, set()).add(value)
  for kind in (ResNet, VGG):
    hints = get_type_hints(kind) | {"pool_padding": Literal[*POOL_PADDINGS]}
    for name in settings(kind, {}):
      assert len(found[f"{kind.__name__}.{name}"]) > 1, f"{kind.__name__}.{name} has one value"
      missing = choices(hints[name]) - found[name]
      assert not missing, f"no row has {name} in {missing}"


@pytest.mark.parametrize("name", ROWS)
def test_a_compiled_gradient_is_that_of_one_operation_after_another(x64, name):
  """The value, the output and the new statistics that are computed with it too."""
  kind, fields, size, layouts = ROWS[name]
  module = network(kind, fields)
  generator = np.random.default_rng(list(ROWS).index(name))
  x = jnp.asarray(generator.normal(size=(2, *size, 3)), module.param_dtype)
  variables = random_variables(module, x, dtype=np.dtype(module.param_dtype))
  point = (variables.pop("params"), x)
  expected = value_and_gradient(module, variables)(*point)
  for layout in layouts:
    compiled = jax.jit(value_and_gradient(module.clone(**LAYOUTS[layout]), variables))
    found = compiled(*point)
    for one, other in zip(found, expected, strict=True):
      assert_close(one, other, BOUNDS[module.dtype], layout)
    if layout == "unrolled" and module.dtype == "float64":
      gradient = expected[1]
      tangent = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), gradient)
      slope, small = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, tangent))), 1e-6
      above, below = (
        compiled(*jax.tree.map(lambda leaf, t, s=s: leaf + s * t, point, tangent))[0][0]
        for s in (small, -small)
      )
      np.testing.assert_allclose((above - below) / (2 * small), slope, rtol=1e-4)


def value_and_gradient(module, statistics):
  """A function of unrolled parameters and images, in training, with one key for all dropout.

  It returns `((loss, (output, new statistics)), gradients)`, unrolled.
  """
  scan = getattr(module, "scan", False)
  if scan:
    statistics = to_scanned(statistics, module.transition)

  def loss(params, x):
    output, updated = module.apply(
      {**statistics, "params": params},
      x,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(3)},
    )
    wide = output.astype(jnp.promote_types(output.dtype, jnp.float32))
    return jnp.sin(wide).sum(), (output, updated)

  differentiated = jax.value_and_grad(loss, (0, 1), has_aux=True)
  if not scan:
    return differentiated

  def of_unrolled(params, x):
    (value, (output, updated)), (of_params, of_x) = differentiated(
      to_scanned(params, module.transition), x
    )
    return (value, (output, to_unrolled(updated))), (to_unrolled(of_params), of_x)

  return of_unrolled


def assert_close(found, expected, bound, layout):
  """Each leaf to `bound` of its norm, or of a thousandth of the largest if it is smaller."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  norms = [np.linalg.norm(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(expected)]
  assert all(np.isfinite(norms))
  for (path, actual), leaf, norm in zip(
    jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), norms, strict=True
  ):
    error = np.linalg.norm(np.asarray(actual, np.float64) - np.asarray(leaf, np.float64))
    error /= max(norm, 1e-3 * max(norms))
    assert error <= bound, f"{layout}{jax.tree_util.keystr(path)}: {error:.1e}"


# Functions of the package that compare, each of values that XLA likes to compute twice.
COMPARING = {
  "global maximum": global_max_pool,
  **{
    f"maximum of slices, {padding}": functools.partial(max_pool_of_slices, padding=padding)
    for padding in POOL_PADDINGS
  },
  "maximum of windows": lambda x: nn.max_pool(x, (3, 3), (2, 2), ((0, 1), (0, 1))),
  "batch norm": lambda x: BatchNorm().apply(STATISTICS, x, mutable=["batch_stats"])[0],
  **{
    name: functools.partial(lambda x, name: activation_function(name)(x), name=name)
    for name in get_args(ActivationName)
  },
}
STATISTICS = {
  "params": {"scale": np.linspace(0.5, 2, 5), "bias": np.linspace(-1, 1, 5)},
  "batch_stats": {"mean": np.zeros(5), "var": np.ones(5)},
}
# What stands before them: a product and a sum are rounded once where they are fused, else twice.
BEFORE = {
  "affine": lambda x, scale, bias: x * scale + bias,
  "normalised": lambda x, scale, bias: nn.relu(x * bias + normalised(jnp.tanh(x), scale, bias)),
}


def normalised(x, scale, bias):
  mean = x.mean((0, 1, 2))
  variance = jnp.square(x).mean((0, 1, 2)) - jnp.square(mean)
  return (x - mean) * (jax.lax.rsqrt(variance + 1e-5) * scale) + bias


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", COMPARING)
def test_a_function_that_compares_has_one_gradient_compiled_or_not(x64, name, before):
  generator = np.random.default_rng(0)
  x, scale, bias = (jnp.asarray(generator.normal(size=size)) for size in ((3, 9, 8, 5), 5, 5))

  def loss(*arguments):
    return jnp.sin(COMPARING[name](BEFORE[before](*arguments))).sum()

  gradient = jax.grad(loss, (0, 1, 2))
  expected = gradient(x, scale, bias)
  assert_close(jax.jit(gradient)(x, scale, bias), expected, 1e-11, name)
