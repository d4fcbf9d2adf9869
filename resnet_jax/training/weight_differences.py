"""In what a run is unlike what the converted weights, from which it starts, were trained with.

Neither shows in the shapes of the weights: which function the network is, and how pictures are
shown to it.
"""

import dataclasses
from typing import Any

from resnet_jax.data.config import DataConfig
from resnet_jax.data.preprocessing import with_preprocessing
from resnet_jax.models import Network
from resnet_jax.run.config import differences
from resnet_jax.training.weight_source import split_source
from resnet_jax.weights.directory import is_weights_directory, read_info

# Fields in which a network may differ and still be the function that its weights were trained as,
# but for precision and in training. A run clones `norm` for its devices.
_HARMLESS = {
  "bn_momentum",
  "dropout",
  "dtype",
  "frozen_bn",
  "name",
  "norm",
  "num_classes",
  "param_dtype",
  "parent",
  "remat",
  "scan",
  "zero_init_residual",
}


def network_differences(source: str, model: Network) -> str | None:
  """In what a network is another function than converted weights were trained as, in words.

  Args:
    source: A config's `init_from`.
    model: The network that shall start from it, which has variables of the same shapes.

  Returns:
    A line that says what to do, or None: nothing differs, or the source is a run.
  """
  directory, _ = split_source(source)
  if not is_weights_directory(directory):
    return None
  theirs = read_info(directory).create()
  names = [field.name for field in dataclasses.fields(theirs) if field.name not in _HARMLESS]
  differing = {
    name: (_setting(model, name), _setting(theirs, name))
    for name in names
    if _setting(model, name) != _setting(theirs, name)
  }
  if not differing:
    return None
  here = ", ".join(f"{name}={ours!r}" for name, (ours, _) in differing.items())
  fields = " ".join(f"--config.model.{name} {_words(of)}" for name, (_, of) in differing.items())
  return f"this network has {here}, unlike that of the weights; as theirs: {fields}"


def preprocessing_differences(source: str, data: DataConfig, decoded: bool) -> str | None:
  """In what pictures are shown otherwise than converted weights expect, in words.

  Args:
    source: A config's `init_from`.
    data: The data section of the run that shall start from it.
    decoded: Whether its pictures are decoded, resized and cropped.

  Returns:
    A line that says what to do, or None: nothing differs, or it is not known what is expected.
  """
  directory, _ = split_source(source)
  preprocessing = read_info(directory).preprocessing if is_weights_directory(directory) else None
  if preprocessing is None:
    return None
  differing = {
    name: theirs
    for name, (_, theirs) in differences(data, with_preprocessing(data, preprocessing)).items()
    if decoded or not name.startswith("streaming.")
  }
  if not differing:
    return None
  fields = " ".join(f"--config.data.{name} {_words(value)}" for name, value in differing.items())
  return f"pictures are not shown as these weights expect; to show them so: {fields}"


def _setting(model: Network, name: str) -> Any:
  value = getattr(model, name, None)
  return 1e-5 if name == "bn_epsilon" and value is None else value


def _words(value: Any) -> str:
  return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
