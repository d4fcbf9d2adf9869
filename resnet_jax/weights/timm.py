"""timm's residual networks, ResNet-D, ResNeXt, wide and squeeze-excited ones included.

Names and conventions are torchvision's (timm/models/resnet.py). What weights expect of pictures
differs from file to file, and stands in the `config.json` that a hub has beside each.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.foreign import Foreign, ForeignFile, torch_fields
from resnet_jax.weights.imagenet import imagenet_class_names
from resnet_jax.weights.torch_names import structure, tensor_name

# Parts of names of architectures that blur or average where a plain ResNet strides: another
# function of weights of the same shapes.
_BLURRING = ("netaa", "nextaa", "blur")


def read(file: ForeignFile, model: ResNet) -> Foreign:
  """The weights of a file of timm's.

  Args:
    file: What was read. Without `config.json` its preprocessing is not known, nor whether the
      network blurs, which has no weights.
    model: The network of the catalog whose weights they shall be.

  Raises:
    UserError: `config.json` is of a network that there is none of here.
  """
  config = file.settings.get("config.json", {})
  architecture = str(config.get("architecture", ""))
  if any(part in architecture for part in _BLURRING):
    raise UserError(f"{file.name} is a {architecture}: there is no such network here")
  fields = structure(file.arrays, model.width)
  names = functools.partial(
    tensor_name,
    deep_stem=fields.get("stem") == "deep",
    pooled_projection="projection" in fields,
  )
  return Foreign(
    file.arrays,
    names,
    torch_fields(model) | fields,
    preprocessing=_preprocessing(config.get("pretrained_cfg", {})),
    class_names=_class_names(config),
  )


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
  """Those given; a thousand without names are ImageNet's, as timm takes them to be."""
  names = config.get("label_names")
  if isinstance(names, list):
    return tuple(map(str, names))
  return imagenet_class_names() if config.get("num_classes") == 1000 else None


def _preprocessing(settings: Mapping[str, Any]) -> Preprocessing | None:
  """As timm's own transform: crop_pct is the crop's share of the short side, rounded down."""
  try:
    size = int(settings["input_size"][-1])
    interpolation = settings["interpolation"]
    return Preprocessing(
      tuple(map(float, settings["mean"])),
      tuple(map(float, settings["std"])),
      255.0,
      size=size,
      resize=math.floor(size / settings["crop_pct"]),
      interpolation=interpolation if interpolation in ("bilinear", "bicubic") else None,
    )
  except (LookupError, TypeError, ValueError):
    return None
