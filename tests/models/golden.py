"""Writes golden_networks.txt: every network of the catalog, layer by layer, as it is computed.

Run it after a change that is meant to change a network, and read what `git diff` says:

  python tests/models/golden.py

Nothing is computed: each network is traced once, as for a GPU, where every convolution and pooling
is one operation of the traced program. Strides, paddings, dilations and groups in the file are
those of these operations, not the fields of modules. Equal consecutive blocks are written once.
"""

import collections
import itertools
import math
import os
import pathlib
import re
from typing import Any, NamedTuple
from unittest import mock

# The text is the same on every device: none needs to be there, or to be started.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from resnet_jax.models import create, image_shape, names

FILE = pathlib.Path(__file__).with_name("golden_networks.txt")
COMMAND = "python tests/models/golden.py"
_TITLE = "== "
# Numbers of modules that neither their variables nor the operations below show.
_SETTINGS = ("momentum", "epsilon", "rate")


class _Step(NamedTuple):
  """A call of a module without modules in it, or an operation of one with modules.

  Attributes:
    path: Of the module.
    kind: Its class; empty for an operation.
    operations: Those of it that have a text.
    shape: Of the result.
  """

  path: tuple[str, ...]
  kind: str
  operations: list[Any]
  shape: tuple[int, ...]


def sections():
  """What the file says, by name of the network."""
  parts = re.split(f"^{_TITLE}", FILE.read_text("utf-8"), flags=re.MULTILINE)
  return {part.split("\n", 1)[0]: f"{_TITLE}{part}".rstrip() for part in parts if part}


def describe(name, network=None):
  """A network's section: totals, and what each block computes, in order.

  Args:
    name: A network of the catalog.
    network: Another one to describe in its stead, shown the same images.
  """
  shape = image_shape(name)
  operations, variables = _traced(create(name) if network is None else network, shape)
  lines = [
    f"{_TITLE}{name}",
    f"images: {_by(shape)}, {sum(map(_macs, operations)):,} multiply-adds each",
    *_totals(variables),
    *_settings(operations),
    *_collapsed(_lines(list(_steps(operations)), variables)),
  ]
  return "\n".join(lines)


def _traced(network, shape):
  """The operations that initialise and evaluate a network, and the shapes of its variables.

  Where the call of a module begins and ends, a named identity stands among the operations.
  """

  def mark(call, args, kwargs, context):
    if context.method_name != "__call__":
      return call(*args, **kwargs)
    module = context.module
    settings = [f"{name} {getattr(module, name)}" for name in _SETTINGS if hasattr(module, name)]
    words = ["/".join(module.path), type(module).__name__, ", ".join(settings)]
    y = call(checkpoint_name(args[0], "|".join(words)), *args[1:], **kwargs)
    return checkpoint_name(y, "end")

  images = jax.ShapeDtypeStruct((1, *shape), "float32")
  trace = jax.make_jaxpr(network.init_with_output, return_shape=True)
  with mock.patch.object(jax, "default_backend", lambda: "gpu"), nn.intercept_methods(mark):
    program, (_, variables) = trace(jax.random.key(0), images)
  return list(_flattened(program.jaxpr)), variables


def _flattened(jaxpr):
  """The operations of a program and of those within it, but for activations."""
  for operation in jaxpr.eqns:
    inner = [value for value in operation.params.values() if isinstance(value, core.ClosedJaxpr)]
    if inner and not _is_activation(operation):
      for program in inner:
        yield from _flattened(program.jaxpr)
    else:
      yield operation


def _is_activation(operation):
  return operation.primitive.name == "custom_jvp_call"


def _mark(operation):
  """What a mark says: ["end"], or path, class and settings of the module whose call begins."""
  return operation.params["name"].split("|") if operation.primitive.name == "name" else []


def _steps(operations):
  """What a network does, one step after another."""
  marks = [_mark(operation) for operation in operations]
  paths = [tuple(mark[0].split("/")) for mark in marks if len(mark) > 1]
  outer = {path[:depth] for path in paths for depth in range(len(path))} | {("",)}
  stack, within = [], []
  for operation, mark in zip(operations, marks, strict=True):
    shape = operation.outvars[0].aval.shape[1:] if operation.outvars else ()
    if len(mark) > 1:
      stack.append((tuple(mark[0].split("/")), mark[1]))
      within = []
    elif mark:
      path, kind = stack.pop()
      if path not in outer:
        yield _Step(path, kind, within, shape)
    elif stack and _text(operation):
      if stack[-1][0] in outer:
        yield _Step(stack[-1][0], "", [operation], shape)
      else:
        within.append(operation)


def _text(operation):
  """What the file says of an operation; nothing of most."""
  parameters, kind = operation.params, operation.primitive.name
  shapes = [variable.aval.shape for variable in operation.invars]
  if kind == "conv_general_dilated":
    layout = parameters["dimension_numbers"]
    assert (layout.lhs_spec, layout.rhs_spec) == ((0, 3, 1, 2), (3, 2, 0, 1)), layout
    assert (parameters["lhs_dilation"], parameters["batch_group_count"]) == ((1, 1), 1)
    return (
      f"stride {_by(parameters['window_strides'])}, padding {_paddings(parameters['padding'])}, "
      f"dilation {_by(parameters['rhs_dilation'])}, groups {parameters['feature_group_count']}"
    )
  if kind == "dot_general":
    return f"product {_by(shapes[0][1:])} by {_by(shapes[1])}"
  if kind.startswith("reduce_window"):
    assert {*parameters["base_dilation"], *parameters["window_dilation"]} == {1}
    return (
      f"{kind} {_by(parameters['window_dimensions'])}, stride {_by(parameters['window_strides'])}, "
      f"padding {_paddings(parameters['padding'])}"
    )
  if kind in ("reduce_sum", "reduce_max"):
    return f"{kind} over axes {', '.join(map(str, parameters['axes']))}"
  if kind == "transpose":
    return f"transpose {_by(parameters['permutation'])}"
  if kind == "slice":
    return f"every {_by(parameters['strides'] or '1')} from {_by(parameters['start_indices'])}"
  if kind == "pad":
    return f"padding {_paddings(config[:2] for config in parameters['padding_config'])}"
  if _is_activation(operation):
    return parameters["call_jaxpr"].jaxpr.eqns[0].params["name"]
  # A dense layer reshapes its bias.
  return "reshape" if kind == "reshape" and shapes[0][0] == 1 and len(shapes[0]) == 4 else ""


def _macs(operation):
  """Multiply-adds of an operation."""
  if operation.primitive.name not in ("conv_general_dilated", "dot_general"):
    return 0
  *inputs, output = operation.outvars[0].aval.shape
  kernel = operation.invars[1].aval.shape
  assert kernel[-1] == output
  return math.prod(inputs) * math.prod(kernel)


def _lines(steps, variables):
  """(block, line) for each step."""
  arrays = _by_module(variables)
  for path, kind, operations, shape in steps:
    held = arrays.pop("/".join(path), {}) if kind else {}
    for operation in filter(_macs, operations):
      kernel = operation.invars[1].aval.shape
      assert kernel in [array.shape for array in held.values()], (path, kernel)
    depth = 2 if len(path) > 1 and path[1].startswith("block") else 1
    # What the network itself does after its stages is no block.
    block = "/".join(path[:depth]) if kind == "" or len(path) > depth else ""
    what = [f"{'/'.join(path).removeprefix(block).lstrip('/')} {kind}:"] if kind else []
    variable_texts = (f"{name} {_by(array.shape)}" for name, array in held.items())
    texts = [*variable_texts, *map(_text, operations), f"-> {_by(shape)}"]
    yield block or "network", " ".join([*what, "; ".join(texts)])
  assert not arrays, f"variables of modules that are not called: {sorted(arrays)}"


def _by_module(variables):
  """The variables of each module, by its path and their name."""
  found = collections.defaultdict(dict)
  for (_, *path, name), array in _leaves(variables):
    found["/".join(path)][name] = array
  return found


def _leaves(variables):
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return [(tuple(key.key for key in path), array) for path, array in leaves]


def _totals(variables):
  """Number and kinds of the variables of each collection."""
  for collection, leaves in itertools.groupby(_leaves(variables), lambda leaf: leaf[0][0]):
    arrays = [(path[-1], array) for path, array in leaves]
    numbers, kinds = collections.Counter(), collections.Counter()
    for name, array in arrays:
      kind = f"{array.dtype} {array.ndim}-d {name}"
      numbers[kind] += math.prod(array.shape)
      kinds[kind] += 1
    yield f"{collection}: {sum(numbers.values()):,} numbers in {len(arrays)} arrays"
    for kind in sorted(kinds):
      yield f"  {kinds[kind]} {kind}, {numbers[kind]:,} numbers"


def _settings(operations):
  """How many modules there are with each of the settings that variables do not show."""
  calls = (_mark(operation)[1:] for operation in operations)
  counts = collections.Counter(
    f"{kind}: {settings}" for kind, settings in filter(any, calls) if settings
  )
  return [f"{count} {text}" for text, count in counts.items()]


def _collapsed(lines):
  """The lines under titles that name their blocks, equal consecutive blocks once."""
  blocks = [
    (*re.fullmatch(r"(.*?)(\d*)", block).groups(), [f"  {line}" for _, line in group])
    for block, group in itertools.groupby(lines, lambda line: line[0])
  ]
  for (name, _, text), group in itertools.groupby(
    blocks, lambda block: (block[0], block[1] == "", block[2])
  ):
    numbers = [number for _, number, _ in group]
    yield name + (numbers[0] if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    yield from text


def _by(sizes):
  return "x".join(map(str, sizes)) or "()"


def _paddings(pairs):
  """Before and after, of each axis."""
  return " ".join(f"{before}+{after}" for before, after in pairs)


if __name__ == "__main__":
  FILE.write_text("\n\n".join(map(describe, names())) + "\n", "utf-8")
