"""From a foreign file to a network and its variables."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.models.catalog import create
from resnet_jax.models.config import ModelConfig
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights import akamaster, hub, keras, timm, torchvision, transformers
from resnet_jax.weights.array_files import read_arrays, sha256
from resnet_jax.weights.directory import WeightsInfo
from resnet_jax.weights.foreign import Foreign, ForeignFile
from resnet_jax.weights.plain_arrays import from_arrays, variable_shapes

SOURCES: dict[str, Callable[[ForeignFile, ResNet], Foreign]] = {
  "torchvision": torchvision.read,
  "timm": timm.read,
  "transformers": transformers.read,
  "akamaster": akamaster.read,
  "keras": keras.read,
}
_HUB_SOURCES = ("timm", "transformers")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_SETTINGS = ("config.json", "preprocessor_config.json")


def convert(
  source: str,
  file: str | pathlib.Path,
  name: str,
  overrides: Mapping[str, Any] | None = None,
  class_names: Sequence[str] | None = None,
  class_offset: int = 0,
) -> tuple[dict[str, Any], WeightsInfo]:
  """Reads foreign weights.

  What the weights need of the network (strides, paddings, epsilon, number of classes, and what else
  their shapes give away) is set; every array has to fit.

  Args:
    source: One of `SOURCES`.
    file: Of arrays: see `read_arrays`. Or a folder as hubs have them, with `model.safetensors` and
      `config.json`; or for timm and transformers a hub's name, "timm/resnet50.a1_in1k".
    name: Of a residual network of the catalog.
    overrides: Fields of the network that differ from the catalog's, and from what the weights would
      set.
    class_names: One for each class, instead of those that the source has.
    class_offset: How many outputs stand before that of the first class.

  Returns:
    The variables, as NumPy arrays, of `info.create()`; and `info`.

  Raises:
    UserError: The file cannot be read, or what it holds does not fit the network.
  """
  if source not in SOURCES:
    raise UserError(f"source {source!r}: known are {', '.join(SOURCES)}")
  overrides = dict(overrides or {})
  base = _network(name, overrides)
  content = _read(source, file)
  foreign = SOURCES[source](content, base)
  fields = dict(foreign.fields)
  outputs = _outputs(foreign, base)
  if outputs is not None:
    fields["num_classes"] = outputs
  model = ModelConfig(name, fields | overrides)
  try:
    variables = from_arrays(
      _network(name, model.overrides),
      foreign.arrays,
      foreign.names,
      kernels=foreign.kernels,
      ignored=foreign.ignored,
    )
  except UserError as error:
    raise UserError(f"{content.name} is not of {name}: {error}") from None
  info = WeightsInfo(
    model,
    source,
    content.name,
    content.sha256,
    foreign.preprocessing,
    tuple(class_names) if class_names is not None else foreign.class_names,
    class_offset,
    top1=foreign.top1,
  )
  return variables, info


def _network(name: str, overrides: Mapping[str, Any]) -> ResNet:
  try:
    model = create(name, **overrides)
  except ValueError as error:
    raise UserError(str(error)) from None
  if not isinstance(model, ResNet):
    raise UserError(
      f"{name} is no residual network; resnet_jax.weights.from_arrays takes arrays of any"
    )
  return model


def _outputs(foreign: Foreign, base: ResNet) -> int | None:
  """How many the classifier of the file has, if it has one."""
  name = "params/head/bias"
  if name not in variable_shapes(base):
    return None
  array = foreign.arrays.get(foreign.names(name))
  return None if array is None or array.ndim != 1 else int(array.shape[0])


def _read(source: str, file: str | pathlib.Path) -> ForeignFile:
  name, path = str(file), pathlib.Path(file)
  if source in _HUB_SOURCES and not path.exists() and hub.is_hub_name(name):
    path = hub.download(name, (*_WEIGHT_FILES, *_SETTINGS))
  else:
    name = path.name
  if path.is_dir():
    found = [path / weights for weights in _WEIGHT_FILES if (path / weights).is_file()]
    if not found:
      raise UserError(f"{path} has none of {', '.join(_WEIGHT_FILES)}")
    path = found[0]
  arrays = read_arrays(path)
  settings = {}
  if source in _HUB_SOURCES:
    settings = {n: _json(path.parent / n) for n in _SETTINGS if (path.parent / n).is_file()}
  return ForeignFile(name, path, sha256(path), arrays, settings)


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"{path} beside the weights cannot be read: {error}") from None
  return values if isinstance(values, dict) else {}
