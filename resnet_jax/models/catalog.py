"""Every network by name, with the structure that the paper gives it."""

import dataclasses
import difflib
from typing import Any

from resnet_jax.models.resnet import ResNet

# Table 1: depth -> blocks a stage, and their kind; shortcut option B.
IMAGENET: dict[int, dict[str, Any]] = {
  18: {"stage_sizes": (2, 2, 2, 2), "block": "basic"},
  34: {"stage_sizes": (3, 4, 6, 3), "block": "basic"},
  50: {"stage_sizes": (3, 4, 6, 3), "block": "bottleneck"},
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
PLAIN_CIFAR_DEPTHS = (20, 32, 44, 56, 110)
PLAIN_IMAGENET_DEPTHS = (18, 34)


def cifar_fields(depth: int) -> dict[str, Any]:
  """The fields of the 6n+2 layer network of section 4.2, option A, for 10 classes.

  Args:
    depth: Number of weighted layers, 6n + 2.

  Raises:
    ValueError: `depth` is not 6n + 2.
  """
  n, remainder = divmod(depth - 2, 6)
  if remainder or n < 1:
    raise ValueError(f"depth={depth}: the CIFAR networks have 6n+2 layers, n >= 1 (8, 14, 20, …)")
  return {
    "stage_sizes": (n, n, n),
    "block": "basic",
    "width": 16,
    "stem": "cifar",
    "shortcut": "A",
    "num_classes": 10,
  }


NETWORKS: dict[str, dict[str, Any]] = {
  **{f"resnet{depth}": fields for depth, fields in IMAGENET.items()},
  **{f"plain{depth}": IMAGENET[depth] | {"shortcut": None} for depth in PLAIN_IMAGENET_DEPTHS},
  **{f"resnet{depth}": cifar_fields(depth) for depth in CIFAR_DEPTHS},
  **{f"plain{depth}": cifar_fields(depth) | {"shortcut": None} for depth in PLAIN_CIFAR_DEPTHS},
}


def names() -> tuple[str, ...]:
  """The names that `create` knows, in the order of families and depths."""
  return tuple(NETWORKS)


def create(name: str, **overrides: Any) -> ResNet:
  """A network by name.

  Args:
    name: One of `names()`.
    **overrides: Fields of `resnet_jax.models.ResNet` that shall differ from the paper's network,
      for example `num_classes=100` or `shortcut="C"`.

  Returns:
    A Linen module; `module.apply(variables, images, train=False)` gives logits.

  Raises:
    ValueError: There is no such network or field, or the field has no such value.
  """
  if name not in NETWORKS:
    near = difflib.get_close_matches(name, NETWORKS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names())}"
    raise ValueError(f"no network is called {name!r}: {hint}")
  known = [f.name for f in dataclasses.fields(ResNet) if f.name != "parent"]
  for field in overrides:
    if field not in known:
      raise ValueError(f"network {name} has no field {field!r}: its fields are {', '.join(known)}")
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
  return ResNet(**(NETWORKS[name] | values))
