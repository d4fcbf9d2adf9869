"""A network with weights, in one line."""

import json
import pathlib
from typing import Any

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.weights import hub
from resnet_jax.weights.convert import convert
from resnet_jax.weights.directory import load_weights


def create(
  name: str, /, *, weights: str | pathlib.Path, **overrides: Any
) -> tuple[Network, dict[str, Any], Preprocessing | None]:
  """A network with weights, and what it expects of pictures.

  Args:
    name: Of the network in the catalog.
    weights: A directory that `resnet-jax convert` or `save_weights` wrote; or, where there is none,
      a name on the Hugging Face hub: of timm's or transformers', "timm/resnet50.a1_in1k".
    **overrides: Fields of the network that shall differ from those stored, for example
      `dtype="bfloat16"`.

  Returns:
    The network, its variables as NumPy arrays, and the preprocessing of a picture's pixels, None if
    not known. `model.apply(variables, preprocess(pixels))` gives logits; see `Preprocessing` for
    the size of the crop.

  Raises:
    UserError: There are no such weights, or they are damaged, or of another network.
  """
  if not pathlib.Path(weights).exists() and hub.is_hub_name(str(weights)):
    variables, info = convert(_hub_source(str(weights)), weights, name, overrides)
    return info.create(), variables, info.preprocessing
  model, variables, info = load_weights(weights, **overrides)
  if info.model.name != name:
    raise UserError(f"{weights} holds weights of {info.model.name}, not of {name}")
  return model, variables, info.preprocessing


def _hub_source(name: str) -> str:
  """Which library's weights a hub's name is of: timm's settings say which architecture."""
  path = hub.download(name, ("config.json",)) / "config.json"
  try:
    return "timm" if "architecture" in json.loads(path.read_text()) else "transformers"
  except (OSError, ValueError, TypeError):
    raise UserError(f"{name} on the hub has no config.json that says what it is") from None
