"""The catalog and the layers of one network as text, as the paper's Table 1 shows them."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import jax
from flax import linen as nn

from resnet_jax.models.catalog import Network, create, image_shape, names
from resnet_jax.models.convolution import Conv
from resnet_jax.models.cost import cost
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shortcuts import ProjectionShortcut, ZeroPadShortcut
from resnet_jax.models.stages import Stage
from resnet_jax.models.stems import Stem

# Part of an ImageNet network -> the paper's name of it, which has the stem's pooling in conv2_x.
_TABLE_1 = {"stem": "conv1", **{f"stage{i}": f"conv{i + 1}_x" for i in range(1, 5)}}
_POOLS = {"avg": "average pool", "max": "max pool", "flatten": "flatten", "none": ""}


@dataclasses.dataclass(frozen=True)
class _Call:
  """A module where the network calls it."""

  path: tuple[str, ...]
  module: nn.Module
  input_shape: tuple[int, ...]
  output_shape: tuple[int, ...]

  @property
  def text(self) -> str:
    """A layer as Table 1 writes it: kernel, channels."""
    module = self.module
    if isinstance(module, ProjectionShortcut | ZeroPadShortcut):
      return _shortcut_text(module)
    if not isinstance(module, Conv):
      return f"{self.output_shape[-1]}-d fc"
    size = module.kernel_size
    more = f", {module.groups} groups" if module.groups > 1 else ""
    more += f", dilation {module.dilation}" if module.dilation > 1 else ""
    return f"{size}x{size}, {module.features}{more}"


def catalog_table() -> str:
  """Name, image, parameters and multiply-adds of every network."""
  rows = [("name", "image", "parameters", "multiply-adds")]
  for name in names():
    shape, model = image_shape(name), create(name)
    # A loop over equal blocks is traced once.
    costs = cost(model.clone(scan=True) if isinstance(model, ResNet) else model, shape)
    rows.append((name, _size(shape), f"{costs.params:,}", f"{costs.macs:,}"))
  return _aligned(rows, "<<>>")


def layer_table(model: Network, input_shape: tuple[int, int, int]) -> str:
  """The parts of a network: layers, output, parameters and multiply-adds.

  Args:
    model: A network; whether its blocks are scanned makes no difference.
    input_shape: (height, width, channels) of an image.

  Raises:
    ValueError: The network cannot take such images.
  """
  model = model.clone(scan=False) if isinstance(model, ResNet) else model
  calls, params = _trace(model, input_shape)
  rows: list[tuple[str, ...]] = [("part", "output", "layers", "parameters", "multiply-adds")]
  pooled = [_POOLS[model.head]] if model.head != "none" else []
  stem_pool: list[str] = []
  for part in (call for call in calls if len(call.path) == 1):
    (name,) = part.path
    inner = [c for c in calls if c.path[0] == name]
    layers = [c for c in inner if isinstance(c.module, Conv | nn.Dense)]
    macs = sum(_macs(call.module, call.input_shape) for call in layers)
    lines, output = stem_pool + _describe(part, inner), part.output_shape
    stem_pool = []
    if isinstance(part.module, nn.Dense):
      lines, pooled = [", ".join([*pooled, *lines])], []
    if isinstance(part.module, Stem) and model.stem != "cifar":
      output, stem_pool = layers[-1].output_shape, ["3x3 max pool, stride 2"]
    if isinstance(model, ResNet) and model.stem != "cifar" and name in _TABLE_1:
      name = f"{name} ({_TABLE_1[name]})"
    count = _count(params.get(part.path[0], {}))
    rows.append((name, _size(output), lines[0], f"{count:,}", f"{macs:,}"))
    rows += [("", "", line, "", "") for line in lines[1:]]
  rows += [("head", "", text, "0", "0") for text in pooled]
  total = cost(model, input_shape)
  rows.append(("total", "", "", f"{total.params:,}", f"{total.macs:,}"))
  return _aligned(rows, "<<<>>")


def _trace(model: nn.Module, input_shape: Sequence[int]) -> tuple[list[_Call], dict[str, Any]]:
  """A network's parts and layers as it calls them, and the shapes of its parameters."""
  calls: list[_Call] = []

  def record(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
    output = function(*args, **kwargs)
    if context.method_name == "__call__":
      module, path = context.module, context.module.path
      is_layer = isinstance(module, Conv | nn.Dense | ProjectionShortcut | ZeroPadShortcut)
      if is_layer or (len(path) == 1 and not isinstance(module, nn.Dropout)):
        alone = module.clone(parent=None, name=None)
        calls.append(_Call(path, alone, args[0].shape[1:], output.shape[1:]))
    return output

  x = jax.ShapeDtypeStruct((1, *input_shape), "float32")
  with nn.intercept_methods(record):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
  return calls, variables.get("params", {})


def _describe(part: _Call, calls: Sequence[_Call]) -> list[str]:
  """The layers of a part, equal ones as one line, then what only one of its blocks has."""
  if isinstance(part.module, nn.Dense):
    return [part.text]
  if isinstance(part.module, Stage):
    return _describe_stage(calls)
  layers = [call for call in calls if isinstance(call.module, Conv)]
  if not layers:
    return ["normalisation, activation"]
  texts = [call.text + (", stride 2" if _strides(call) else "") for call in layers]
  lines = [_times(text, len(list(equal))) for text, equal in groupby(texts)]
  return lines if isinstance(part.module, Stem) else [*lines, "2x2 max pool, stride 2"]


def _describe_stage(calls: Sequence[_Call]) -> list[str]:
  inner = [call for call in calls if len(call.path) > 1]  # All but the stage itself.
  blocks = [list(block) for _, block in groupby(inner, key=lambda call: call.path[1])]
  texts, notes = [], []
  for block in blocks:
    shortcuts = [call for call in block if call.path[-1] == "shortcut"]
    gates = [call for call in block if "addition" in call.path]
    branch = [call for call in block if not {"shortcut", "addition"} & set(call.path)]
    gated = "".join(f" | gate {gate.text}" for gate in gates)
    texts.append("; ".join(call.text for call in branch) + gated)
    special = [f"{call.path[-1]} stride 2" for call in branch if _strides(call)]
    special += [f"shortcut {call.text}" for call in shortcuts]
    if special:
      notes.append(f"  {block[0].path[1]}: {'; '.join(special)}")
  return [f"[{text}] x {len(list(equal))}" for text, equal in groupby(texts)] + notes


def _shortcut_text(module: ProjectionShortcut | ZeroPadShortcut) -> str:
  stride = f", stride {module.stride}" if module.stride > 1 else ""
  if isinstance(module, ZeroPadShortcut):
    return f"padded to {module.features}{stride}"
  projection = f"1x1, {module.features}"
  if module.kind == "pool_conv" and module.stride > 1:
    return f"{module.stride}x{module.stride} average pool{stride}, {projection}"
  if module.kind == "pool_conv" and module.dilation != module.first_dilation:
    size = module.dilation // module.first_dilation
    apart = f", dilation {module.first_dilation}" if module.first_dilation > 1 else ""
    return f"{size}x{size} average pool{apart}, {projection}"
  return projection + stride


def _strides(call: _Call) -> bool:
  return isinstance(call.module, Conv) and call.module.stride > 1


def _times(text: str, count: int) -> str:
  return f"[{text}] x {count}" if count > 1 else text


@functools.cache
def _macs(layer: nn.Module, input_shape: tuple[int, ...]) -> int:
  return cost(layer, input_shape).macs


def _count(tree: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _size(shape: Sequence[int]) -> str:
  return "x".join(map(str, shape))


def _aligned(rows: Sequence[Sequence[str]], alignments: str) -> str:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      f"{text:{side}{width}}" for text, side, width in zip(row, alignments, widths, strict=True)
    ).rstrip()
    for row in rows
  )
