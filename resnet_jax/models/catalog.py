"""Every network by name, with the structure that the papers give it."""

import dataclasses
import difflib
import re
from typing import Any

import numpy as np

from resnet_jax.models.resnet import ResNet
from resnet_jax.models.vgg import VGG

Network = ResNet | VGG

# Table 1: depth -> blocks a stage, and their kind; shortcut option B.
IMAGENET: dict[int, dict[str, Any]] = {
  18: {"stage_sizes": (2, 2, 2, 2), "block": "basic"},
  34: {"stage_sizes": (3, 4, 6, 3), "block": "basic"},
  50: {"stage_sizes": (3, 4, 6, 3), "block": "bottleneck"},
  101: {"stage_sizes": (3, 4, 23, 3), "block": "bottleneck"},
  152: {"stage_sizes": (3, 8, 36, 3), "block": "bottleneck"},
}
# arXiv 1603.05027, Table 5, and its released code.
PREACTIVATION_200 = {
  "stage_sizes": (3, 24, 36, 3),
  "block": "bottleneck",
  "order": "full_preactivation",
}
# arXiv 1409.1556, Table 1, columns D and E.
VGG_STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
PLAIN_IMAGENET_DEPTHS = (18, 34)
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
PLAIN_CIFAR_DEPTHS = (20, 32, 44, 56, 110)
PREACTIVATION_CIFAR_DEPTHS = (164, 1001)


def cifar_fields(depth: int) -> dict[str, Any]:
  """The fields of the 6n+2 layer network of section 4.2, option A, for 10 classes.

  Args:
    depth: Number of weighted layers, 6n + 2.

  Raises:
    ValueError: `depth` is not 6n + 2.
  """
  n = _blocks(depth, 6)
  return {
    "stage_sizes": (n, n, n),
    "block": "basic",
    "width": 16,
    "stem": "cifar",
    "shortcut": "A",
    "num_classes": 10,
  }


def preactivation_cifar_fields(depth: int) -> dict[str, Any]:
  """The fields of the 9n+2 layer network of arXiv 1603.05027: full pre-activation, bottlenecks.

  Args:
    depth: Number of weighted layers, 9n + 2.

  Raises:
    ValueError: `depth` is not 9n + 2.
  """
  n = _blocks(depth, 9)
  return cifar_fields(8) | {
    "stage_sizes": (n, n, n),
    "block": "bottleneck",
    "shortcut": "B",
    "order": "full_preactivation",
  }


def _blocks(depth: int, layers: int) -> int:
  """Blocks in each of three stages; `layers` in one block of each, and two more."""
  whole = isinstance(depth, int | np.integer)
  n, remainder = divmod(int(depth) - 2, layers) if whole else (0, 0)
  if remainder or n < 1:
    examples = ", ".join(str(layers * n + 2) for n in (1, 2, 3))
    raise ValueError(
      f"depth={depth!r}: these CIFAR networks have {layers}n+2 layers, n >= 1 ({examples}, …)"
    )
  return n


_RESNETS: dict[str, dict[str, Any]] = {
  **{f"resnet{depth}": fields for depth, fields in IMAGENET.items()},
  **{f"plain{depth}": IMAGENET[depth] | {"shortcut": None} for depth in PLAIN_IMAGENET_DEPTHS},
  "preact_resnet200": PREACTIVATION_200,
  **{f"resnet{depth}": cifar_fields(depth) for depth in CIFAR_DEPTHS},
  **{f"plain{depth}": cifar_fields(depth) | {"shortcut": None} for depth in PLAIN_CIFAR_DEPTHS},
  "preact_resnet110": cifar_fields(110) | {"order": "full_preactivation"},
  **{f"preact_resnet{d}": preactivation_cifar_fields(d) for d in PREACTIVATION_CIFAR_DEPTHS},
}
NETWORKS: dict[str, tuple[type[ResNet] | type[VGG], dict[str, Any]]] = {
  **{name: (ResNet, fields) for name, fields in _RESNETS.items()},
  **{f"vgg{depth}": (VGG, {"stage_sizes": sizes}) for depth, sizes in VGG_STAGES.items()},
}


def names() -> tuple[str, ...]:
  """The names that `create` knows, in the order of families and depths."""
  return tuple(NETWORKS)


def image_shape(name: str) -> tuple[int, int, int]:
  """The image (height, width, channels) that the paper shows to a network of the catalog."""
  cifar = NETWORKS[_known(name)][1].get("stem") == "cifar"
  return (32, 32, 3) if cifar else (224, 224, 3)


def create(name: str, /, **overrides: Any) -> Network:
  """A network by name.

  Args:
    name: One of `names()`. (`name=…` is Linen's: that of the module in another one.)
    **overrides: Fields of `resnet_jax.models.ResNet` (of `VGG`, for those) that shall differ from
      the paper's network, for example `num_classes=100` or `shortcut="C"`.

  Returns:
    A Linen module; `module.apply(variables, images, train=False)` gives logits.

  Raises:
    ValueError: There is no such network or field, or the field has no such value.
  """
  network, fields = NETWORKS[_known(name)]
  known = [f.name for f in dataclasses.fields(network) if f.name not in ("parent", "name")]
  for field in overrides:
    if field not in (*known, "name"):
      raise ValueError(f"network {name} has no field {field!r}: its fields are {', '.join(known)}")
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
  return network(**(fields | values))


def _known(name: str) -> str:
  if not isinstance(name, str):
    raise ValueError(f"name={name!r}: expected the name of a network, for example 'resnet50'")
  if name not in NETWORKS:
    raise ValueError(f"no network is called {name!r}: {_hint(name.lower())}")
  return name


def _hint(name: str) -> str:
  """What somebody who asks for a network that is not there may have meant."""
  if name in NETWORKS:
    return f"did you mean {name}?"
  cifar = re.fullmatch(r"(resnet|plain)(\d+)", name)
  n, remainder = divmod(int(cifar[2]) - 2, 6) if cifar else (0, 0)
  if cifar and n > 0 and not remainder:
    return (
      f"{cifar[2]} layers are 6n+2, so for CIFAR it is {cifar[1]}20 with stage_sizes={(n, n, n)}, "
      f"those of cifar_fields({cifar[2]})"
    )
  for part, (base, fields) in _OPTIONS.items():
    if part in name:
      return f"it is {base} with {fields}"
  near = difflib.get_close_matches(name, NETWORKS, n=3)
  return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names())}"


# Part of a popular name -> a network, and the fields that make it what is called so.
_OPTIONS = {
  "resnext": ("resnet50", "groups=32, width_per_group=4 (32x4d)"),
  "wide_resnet": ("resnet50", "width_per_group=128 (wide_resnet50_2)"),
  "wrn": (
    "resnet20",
    "stage_sizes=(4, 4, 4), widening=10, shortcut='B', order='full_preactivation' (28-10)",
  ),
  "se_resnet": ("resnet50", "squeeze_excitation=16"),
}
