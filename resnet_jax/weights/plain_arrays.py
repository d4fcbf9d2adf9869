"""Variables of a network made of plain arrays under other names: each checked, none forgotten."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.models.layouts import to_scanned, to_unrolled

Kernels = Literal["HWIO", "OIHW"]
Names = Mapping[str, str] | Callable[[str], str]

_SHOWN = 3
# Of the stems of residual networks, and of VGG.
_FIRST_CONVOLUTIONS = ("stem/conv", "stem/conv1", "stage1/conv1")


def from_arrays(
  model: Any,
  arrays: Mapping[str, Any],
  names: Names,
  *,
  kernels: Kernels = "HWIO",
  ignored: Iterable[str] = (),
  image_shape: tuple[int, int, int] = (224, 224, 3),
) -> dict[str, Any]:
  """The variables of a network, of arrays from elsewhere.

  Args:
    model: The network, for example of `models.create`.
    arrays: By the names that they have there; of NumPy, of JAX, or what `np.asarray` takes.
    names: From each name of a variable here, for example "params/stage1/block1/conv1/kernel" (or
      "batch_stats/stage1/block1/norm1/mean"), to that of its array: a mapping, or a function.
      Blocks are numbered from 1, scanned or not.
    kernels: The axes of convolutions there: HWIO as here, then those of dense layers are (in, out);
      or OIHW as in PyTorch, then they are (out, in), or (out, in, 1, 1).
    ignored: Patterns of names of arrays that may be left over, for example
      "*.num_batches_tracked".
    image_shape: (H, W, C) of an image of the network. Of the first two the kernel of the classifier
      depends where it is given the flattened map, otherwise nothing does.

  Returns:
    `params` and `batch_stats`, where there are any, as `model.init` gives them, as NumPy arrays in
    the network's own dtypes.

  Raises:
    UserError: An array is missing, left over, or has another shape than its variable; or is not of
      floats. The first few are named.
    ValueError: The network cannot take such images.
  """
  taken: set[str] = set()
  found: dict[str, np.ndarray] = {}
  missing, differing = [], []
  wanted = variable_shapes(model, image_shape)
  # Parameters first: they are what people know.
  for name, leaf in sorted(wanted.items(), key=lambda item: not item[0].startswith("params/")):
    theirs = _name(names, name)
    if theirs is None or theirs not in arrays:
      missing.append(name if theirs in (None, name) else f"{theirs} (for {name})")
      continue
    taken.add(theirs)
    array = np.asarray(arrays[theirs])
    if not jnp.issubdtype(array.dtype, jnp.floating):
      differing.append(f"{theirs} is of {array.dtype}, not of floats")
      continue
    value = _as_kernel(array, leaf.ndim, kernels) if name.endswith("/kernel") else array
    if value.shape != leaf.shape:
      ours = "not" if theirs == name else f"{name} here"
      differing.append(f"{theirs} is {array.shape}, {ours} {leaf.shape}")
      continue
    found[name] = np.ascontiguousarray(value.astype(leaf.dtype))
  ignored = tuple(ignored)
  left = [
    name
    for name in arrays
    if name not in taken and not any(fnmatchcase(name, pattern) for pattern in ignored)
  ]
  wrong = {"missing": missing, "of another shape": differing, "left over": left}
  if any(wrong.values()):
    what = "; ".join(f"{kind}: {_first(items)}" for kind, items in wrong.items() if items)
    raise UserError(f"the arrays do not fit the network: {what}")
  variables = nested(found)
  if getattr(model, "scan", False):
    stacked = to_scanned(variables, model.transition)
    variables = jax.tree.map(np.asarray, stacked)
  return variables


def variable_shapes(
  model: Any, image_shape: tuple[int, int, int] = (224, 224, 3)
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and dtype of each variable of a network, by its name; no blocks scanned."""
  if getattr(model, "scan", False):
    model = model.clone(scan=False)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return flat(jax.eval_shape(model.init, jax.random.key(0), images))


def image_channels(arrays: Mapping[str, Any]) -> int:
  """How many channels images have, by a network's variables as of `flat`; 3 if they do not say."""
  kernels = (arrays.get(f"params/{name}/kernel") for name in _FIRST_CONVOLUTIONS)
  return next((k.shape[2] for k in kernels if k is not None and k.ndim == 4), 3)


def flat(variables: Any) -> dict[str, Any]:
  """Leaves by name, "params/head/kernel", of variables that may be scanned ones."""
  leaves = jax.tree_util.tree_leaves_with_path(to_unrolled(variables))
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flat`."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *path, last = name.split("/")
    node = tree
    for key in path:
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree


def _name(names: Names, name: str) -> str | None:
  """What a variable's array is called, or None where the format has no such thing."""
  try:
    return names[name] if isinstance(names, Mapping) else names(name)
  except LookupError:
    return None


def _as_kernel(array: np.ndarray, rank: int, kernels: Kernels) -> np.ndarray:
  if kernels == "HWIO":
    return array
  if rank == 4 and array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  if rank == 2 and array.ndim >= 2 and set(array.shape[2:]) <= {1}:
    return array.reshape(array.shape[:2]).T
  return array


def _first(items: list[str]) -> str:
  more = len(items) - _SHOWN
  return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
