"""The names and the structure that residual networks of torchvision and timm share."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# The last part of a variable's name here, and in PyTorch.
LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def tensor_name(name: str, deep_stem: bool = False, pooled_projection: bool = False) -> str:
  """The name of the tensor of a variable, for example of "params/stage1/block1/conv1/kernel".

  The other arguments are those of `module_name`, and so is the error.
  """
  _, *path, leaf = name.split("/")
  return f"{module_name(tuple(path), deep_stem, pooled_projection)}.{LEAVES[leaf]}"


def module_name(
  path: tuple[str, ...], deep_stem: bool = False, pooled_projection: bool = False
) -> str:
  """The name of the module at a path of a ResNet here.

  Args:
    path: For example ("stage1", "block2", "shortcut", "conv").
    deep_stem: Whether the stem is that of ResNet-C and -D.
    pooled_projection: Whether projections pool, as those of ResNet-D.

  Raises:
    KeyError: These networks have no such module.
  """
  name = "/".join(path)
  if match := re.fullmatch(r"stage(\d+)/block(\d+)/(.+)", name):
    pooling = 1 if pooled_projection else 0
    parts = {
      **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)},
      **{f"norm{i}": f"bn{i}" for i in (1, 2, 3)},
      "shortcut/conv": f"downsample.{pooling}",
      "shortcut/norm": f"downsample.{pooling + 1}",
      "attention/reduce": "se.fc1",
      "attention/expand": "se.fc2",
    }
    return f"layer{match[1]}.{int(match[2]) - 1}.{parts[match[3]]}"
  if name == "head":
    return "fc"
  if deep_stem:
    convolutions = {f"stem/conv{i}": f"conv1.{3 * i - 3}" for i in (1, 2, 3)}
    norms = {"stem/norm1": "conv1.1", "stem/norm2": "conv1.4", "stem/norm3": "bn1"}
    return (convolutions | norms)[name]
  return {"stem/conv": "conv1", "stem/norm": "bn1"}[name]


def structure(arrays: Mapping[str, np.ndarray], width: int = 64) -> dict[str, Any]:
  """The fields of the network that shapes of a state dict give away where they differ.

  They are groups and width of bottlenecks (ResNeXt, wide), deep stem and pooled projections
  (ResNet-D) and squeeze-excitation.

  Args:
    arrays: The state dict.
    width: Channels of the first stage's 3x3 convolutions, as in the paper.
  """
  fields: dict[str, Any] = {}
  shapes = {name: array.shape for name, array in arrays.items()}
  inner = shapes.get("layer1.0.conv2.weight", ())
  if "layer1.0.conv3.weight" in shapes and len(inner) == 4 and 0 < inner[1] <= inner[0]:
    groups = inner[0] // inner[1]
    per_group, remainder = divmod(64 * inner[0], width * groups)
    if not remainder and (groups, per_group) != (1, 64):
      fields |= {"groups": groups, "width_per_group": per_group}
  if "conv1.0.weight" in shapes:
    fields["stem"] = "deep"
  if any(
    name.endswith("downsample.1.weight") and len(shape) == 4 for name, shape in shapes.items()
  ):
    fields["projection"] = "pool_conv"
  squeezed = shapes.get("layer1.0.se.fc1.weight", ())
  if len(squeezed) >= 2 and squeezed[0]:
    fields["squeeze_excitation"] = squeezed[1] // squeezed[0]
  return fields
