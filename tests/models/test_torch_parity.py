"""Networks that PyTorch's libraries have too are theirs: outputs, gradients, running statistics.

The references are built by the sources of torchvision and timm (see torch_reference.py). Weights,
batch-norm parameters and running statistics are random, and the same on both sides.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

if not all(map(importlib.util.find_spec, ("torch", "torchvision", "timm"))):
  pytest.skip("no PyTorch: pip install -e '.[torch]'", allow_module_level=True)

import torch
from torch_reference import (
  CLASSES,
  Reference,
  as_variables,
  cifar_resnet,
  features_and_logits,
  preactivated_resnet,
  randomise,
  timm_resnet,
  torchvision_resnet,
  torchvision_vgg,
  training_step,
)

from resnet_jax.models import create

# Tests run side by side, a process a core.
torch.set_num_threads(1)

# Largest difference over largest value: of each feature map in float32, of each array in float64.
FLOAT32_ERROR, FLOAT64_ERROR = 1e-4, 1e-8
# Rows and columns of images. With PyTorch's paddings ODD's rows are odd before each halving.
EVEN, ODD = (64, 48), (65, 49)
# What PyTorch's libraries do otherwise than the paper, and weights do not show.
PAPER = {"stride_in": "1x1", "pool_padding": (0, 1)}
TORCH = {"stride_in": "3x3", "pool_padding": (1, 1)}


class Pair(NamedTuple):
  """A network here and in PyTorch; both take `width`, and those settings that are open in it.

  Residual networks take `stage_sizes`, too.
  """

  ours: Callable[..., Any]
  theirs: Callable[..., Reference]
  settings: tuple[str, ...]


def pair(name: str, theirs: Callable[..., Reference], /, **fields: Any) -> Pair:
  ours = partial(create, name, num_classes=CLASSES, **fields)
  module, settings = ours(), []
  if getattr(module, "block", None) == "bottleneck":
    settings.append("stride_in")
  if getattr(module, "stem", "cifar") != "cifar":
    settings.append("pool_padding")
  return Pair(ours, theirs, tuple(settings))


def vgg_pair(depth: int, norm: str | None) -> Pair:
  name = f"vgg{depth}" if norm is None else f"vgg{depth}_bn"
  theirs = partial(torchvision_vgg, name, hidden=(24, 20))
  fields = {"norm": norm, "hidden_features": (24, 20), "dropout": 0.0}
  if depth == 11:  # Not in the catalog, and the shallowest that torchvision has.
    return pair("vgg16", theirs, stage_sizes=(1, 1, 2, 2, 2), **fields)
  return pair(f"vgg{depth}", theirs, **fields)


RESNET_D = {"stem": "deep", "projection": "pool_conv"}
PREACTIVATED = {"order": "full_preactivation"}
DILATED_18 = "resnet18 dilated to 8"
PAIRS = {
  **{
    f"resnet{depth}": pair(f"resnet{depth}", partial(torchvision_resnet, f"resnet{depth}"))
    for depth in (18, 34, 50, 101, 152)
  },
  "plain34": pair("plain34", partial(torchvision_resnet, "resnet34", shortcut=None)),
  "plain50": pair(
    "resnet50", partial(torchvision_resnet, "resnet50", shortcut=None), shortcut=None
  ),
  **{
    f"resnet{depth} {option}": pair(
      f"resnet{depth}",
      partial(torchvision_resnet, f"resnet{depth}", shortcut=option),
      shortcut=option,
    )
    for depth, option in ((34, "A"), (50, "A"), (18, "C"), (50, "C"))
  },
  "cifar resnet20": pair("resnet20", cifar_resnet),
  "cifar plain20": pair("plain20", partial(cifar_resnet, shortcut=None)),
  "resnext50": pair(
    "resnet50", partial(torchvision_resnet, "resnext50_32x4d"), groups=32, width_per_group=4
  ),
  "wide50": pair("resnet50", partial(torchvision_resnet, "wide_resnet50_2"), width_per_group=128),
  "resnet50 dilated to 16": pair(
    "resnet50",
    partial(torchvision_resnet, "resnet50", replace_stride_with_dilation=[False, False, True]),
    output_stride=16,
  ),
  "resnet50 dilated to 8": pair(
    "resnet50",
    partial(torchvision_resnet, "resnet50", replace_stride_with_dilation=[False, True, True]),
    output_stride=8,
  ),
  DILATED_18: pair("resnet18", partial(timm_resnet, "resnet18", output_stride=8), output_stride=8),
  "resnet18d": pair("resnet18", partial(timm_resnet, "resnet18d"), **RESNET_D),
  "resnet50d": pair("resnet50", partial(timm_resnet, "resnet50d"), **RESNET_D),
  "se resnet18": pair(
    "resnet18", partial(timm_resnet, "resnet18", squeeze_excitation=True), squeeze_excitation=16
  ),
  "se resnet50d": pair(
    "resnet50",
    partial(timm_resnet, "resnet50d", squeeze_excitation=True),
    squeeze_excitation=16,
    **RESNET_D,
  ),
  "preact18": pair(
    "resnet18", partial(preactivated_resnet, stage_sizes=(2,) * 4, basic=True), **PREACTIVATED
  ),
  "preact50": pair(
    "resnet50", partial(preactivated_resnet, stage_sizes=(3, 4, 6, 3)), **PREACTIVATED
  ),
  "cifar preact20 A": pair(
    "preact_resnet110",
    partial(
      preactivated_resnet,
      stage_sizes=(3, 3, 3),
      basic=True,
      width=16,
      shortcut="A",
      stem="cifar",
    ),
    stage_sizes=(3, 3, 3),
  ),
  "cifar preact29": pair(
    "preact_resnet164",
    partial(preactivated_resnet, stage_sizes=(3, 3, 3), width=16, stem="cifar"),
    stage_sizes=(3, 3, 3),
  ),
  "vgg11": vgg_pair(11, None),
  "vgg11 bn": vgg_pair(11, "batch"),
  "vgg16": vgg_pair(16, None),
  "vgg16 bn": vgg_pair(16, "batch"),
  "vgg19": vgg_pair(19, None),
  "vgg19 bn": vgg_pair(19, "batch"),
}


def build(name, conventions, image_size, shallow=False, **more):
  """The two networks of a pair, and images; the reference has random weights.

  A shallow one has one block in each stage, and another, which keeps the shape, in the last.
  """
  ours, theirs, settings = PAIRS[name]
  more |= {key: conventions[key] for key in settings}
  if shallow and not name.startswith("vgg"):
    more["stage_sizes"] = (*(1 for _ in ours().stage_sizes[1:]), 2)
  module = ours(**more)
  dtype, more = module.dtype, {k: v for k, v in more.items() if "dtype" not in k}
  images = np.random.default_rng(0).normal(size=(4, *image_size, 3)).astype(dtype)
  if name.startswith("vgg"):
    more["image_size"] = image_size
  network = theirs(**more)
  randomise(network, images)
  return module, network, images


def relative_error(ours, theirs, scale=None):
  """The largest difference of two arrays, over the largest value of the second."""
  ours = np.asarray(ours)
  assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
  return np.abs(ours - theirs).max() / np.abs(theirs if scale is None else scale).max()


def errors(ours, theirs):
  """Relative error of each leaf, by path.

  A bias before a batch norm is without effect: the gradients of both are rounding errors, which
  are compared with the gradient of the kernel beside.
  """
  ours, theirs = (
    {
      tuple(key.key for key in path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (ours, theirs)
  )
  assert ours.keys() == theirs.keys()

  def scale(path):
    *parents, module, leaf = ("", *path)
    norm = (*parents, module.replace("conv", "norm"), "scale")[1:]
    is_cancelled = leaf == "bias" and module.startswith("conv") and norm in theirs
    return theirs[(*path[:-1], "kernel")] if is_cancelled else theirs[path]

  return {"/".join(path): relative_error(ours[path], theirs[path], scale(path)) for path in ours}


def assert_small(found, bound):
  too_large = {name: error for name, error in found.items() if not error < bound}
  assert not too_large


LONG = pytest.mark.long
# Training, below, is of every kind of network. Here are those that are as deep and as wide as the
# paper's: what their weights and their statistics make of an image.
EVALUATION = [
  # name, conventions, size of images
  ("resnet18", PAPER, EVEN),
  ("resnet50", TORCH, ODD),
  *(pytest.param(name, TORCH, ODD, marks=LONG) for name in PAIRS if name != "resnet50"),
  *(
    pytest.param(name, PAPER, EVEN, marks=LONG)
    for name in ("resnet34", "resnet50", "resnet101", "resnet152", "plain34", "resnet34 A")
  ),
  *(pytest.param(name, TORCH, EVEN, marks=LONG) for name in ("resnet50", "resnext50", "wide50")),
  pytest.param("resnet50", PAPER, ODD, marks=LONG),
]


def row_id(value):
  if isinstance(value, dict):
    return next((name for name, c in (("paper", PAPER), ("torch", TORCH)) if c == value), "")
  return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("name", "conventions", "image_size"), EVALUATION, ids=row_id)
def test_feature_maps_and_logits_are_those_of_pytorch(name, conventions, image_size):
  module, network, images = build(name, conventions, image_size)
  variables = as_variables(network, jax.eval_shape(module.init, jax.random.key(0), images))
  logits, features = jax.jit(partial(module.apply, return_features=True))(variables, images)
  theirs = features_and_logits(network, images)
  assert_small(errors(features | {"logits": logits}, theirs), FLOAT32_ERROR)


SMALL, CIFAR_EVEN, CIFAR_ODD = (33, 49), (32, 36), (33, 31)
# Shallow networks of every kind: each feature is in one, and each convention.
SHALLOW = [
  # name, conventions, size of images, width
  *((name, PAPER, EVEN, 16) for name in ("resnet50", "resnet34 A", "resnet18 C", "preact18")),
  *((name, TORCH, ODD, 16) for name in ("resnet18", "plain34", "resnet50 dilated to 8")),
  ("resnext50", TORCH, EVEN, 16),
  (DILATED_18, TORCH, SMALL, 64),
  ("cifar resnet20", {}, CIFAR_ODD, 16),
  ("cifar preact20 A", {}, CIFAR_ODD, 16),
  ("cifar preact29", PAPER, CIFAR_EVEN, 16),
  ("se resnet50d", TORCH, ODD, 16),
  ("vgg11", {}, EVEN, 16),
  ("vgg11 bn", {}, ODD, 16),
]
# As deep as they are, the other of even and odd, what is like another row, and networks as wide as
# they are.
DEEP = [
  *((name, PAPER, EVEN, 16) for name in ("resnet18", "resnet34", "plain34", "resnet101")),
  *((name, PAPER, EVEN, 16) for name in ("resnet50 A", "resnet50 C", "plain50", "resnet50d")),
  *((name, PAPER, EVEN, 16) for name in ("preact50", "resnet18d", "resnet152")),
  ("resnet50 dilated to 8", PAPER, EVEN, 16),
  *((name, TORCH, ODD, 16) for name in ("resnet34 A", "resnet18 C", "resnet101", "resnet152")),
  *((name, TORCH, ODD, 16) for name in ("resnet34", "resnext50", "wide50", "preact50")),
  *((name, TORCH, ODD, 16) for name in ("resnet50 A", "resnet50 C", "plain50", "resnet50d")),
  *((name, TORCH, ODD, 16) for name in ("preact18", "resnet18d", "resnet50")),
  *((name, TORCH, EVEN, 16) for name in ("wide50", "se resnet50d")),
  *((f"resnet50 dilated to {stride}", TORCH, EVEN, 16) for stride in (8, 16)),
  ("se resnet18", PAPER, SMALL, 64),
  ("cifar resnet20", {}, CIFAR_EVEN, 16),
  ("cifar plain20", {}, CIFAR_EVEN, 16),
  ("cifar plain20", {}, CIFAR_ODD, 16),
  ("cifar preact29", TORCH, CIFAR_ODD, 16),
  *((name, PAPER, ODD, 64) for name in ("resnet18", "resnet34", "resnet50")),
  *((name, TORCH, EVEN, 64) for name in ("resnet18", "resnet34", "resnet50")),
  *((f"vgg{depth}", {}, size, 16) for depth, size in ((16, EVEN), (19, ODD))),
  *((f"vgg{depth} bn", {}, size, 16) for depth, size in ((16, ODD), (19, EVEN), (19, ODD))),
  *(row for row in SHALLOW if not row[0].startswith("vgg")),
]


def assert_step_is_pytorchs(name, conventions, image_size, width, shallow):
  float64 = {"dtype": "float64", "param_dtype": "float64"}
  module, network, images = build(name, conventions, image_size, shallow, width=width, **float64)
  labels = np.array([3, 1, 4, 1])
  like = jax.eval_shape(module.init, jax.random.key(0), images)
  variables = as_variables(network, like)

  @jax.jit
  @partial(jax.value_and_grad, has_aux=True)
  def step(params, rest):
    logits, updated = module.apply({"params": params} | rest, images, True, mutable=list(rest))
    scores = jax.nn.log_softmax(logits)
    return -scores[np.arange(len(labels)), labels].mean(), updated

  params = variables.pop("params")
  (loss, updated), gradients = step(params, variables)
  theirs = training_step(network, images, labels, like)
  found = errors(gradients, theirs.gradients) | errors(updated, theirs.updated)
  assert_small(found | {"loss": relative_error(loss, theirs.loss)}, FLOAT64_ERROR)


@pytest.mark.parametrize(
  ("name", "conventions", "image_size", "width", "shallow"),
  [
    *((*row, True) for row in SHALLOW),
    *(pytest.param(*row, False, marks=LONG) for row in DEEP),
  ],
  ids=row_id,
)
@pytest.mark.usefixtures("x64")
def test_loss_gradients_and_running_statistics_are_those_of_pytorch(
  name, conventions, image_size, width, shallow
):
  assert_step_is_pytorchs(name, conventions, image_size, width, shallow)


@pytest.mark.usefixtures("x64")
def test_what_other_backends_than_cpus_compute_is_pytorchs_too(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  for cpus_own in ("convolution.convolve_on_cpu", "pooling.max_pool_of_slices"):
    monkeypatch.setattr(f"resnet_jax.models.{cpus_own}", pytest.fail)
  assert_step_is_pytorchs("resnet18", PAPER, EVEN, 16, shallow=True)
