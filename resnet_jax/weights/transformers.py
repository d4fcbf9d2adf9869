"""ResNetForImageClassification of transformers.

Its `config.json` says where bottlenecks stride, and names the classes; `preprocessor_config.json`
what the weights expect of pictures.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.foreign import Foreign, ForeignFile, torch_fields
from resnet_jax.weights.torch_names import LEAVES

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # numbers of Pillow's


def read(file: ForeignFile, model: ResNet) -> Foreign:
  """The weights of a file of transformers'.

  Args:
    file: What was read. Without `config.json` bottlenecks stride in the 3x3 convolution, the
      library's default.
    model: The network of the catalog whose weights they shall be.
  """
  config = file.settings.get("config.json", {})
  return Foreign(
    file.arrays,
    tensor_name,
    torch_fields(model, "1x1" if config.get("downsample_in_bottleneck") else "3x3"),
    preprocessing=_preprocessing(file.settings.get("preprocessor_config.json", {})),
    class_names=_class_names(config.get("id2label")),
  )


def tensor_name(name: str) -> str:
  """The name of the tensor of a variable; raises `KeyError` where there is no such module."""
  _, *path, leaf = name.split("/")
  parts = "/".join(path)
  if match := re.fullmatch(r"stage(\d+)/block(\d+)/(.+)", parts):
    inner = {
      **{f"conv{i}": f"layer.{i - 1}.convolution" for i in (1, 2, 3)},
      **{f"norm{i}": f"layer.{i - 1}.normalization" for i in (1, 2, 3)},
      "shortcut/conv": "shortcut.convolution",
      "shortcut/norm": "shortcut.normalization",
    }[match[3]]
    module = f"resnet.encoder.stages.{int(match[1]) - 1}.layers.{int(match[2]) - 1}.{inner}"
  else:
    module = {
      "stem/conv": "resnet.embedder.embedder.convolution",
      "stem/norm": "resnet.embedder.embedder.normalization",
      "head": "classifier.1",
    }[parts]
  return f"{module}.{LEAVES[leaf]}"


def _class_names(labels: Any) -> tuple[str, ...] | None:
  """In the order of their numbers; None where they are but LABEL_0, LABEL_1, …."""
  try:
    names = tuple(str(labels[str(i)]) for i in range(len(labels)))
  except (LookupError, TypeError):
    return None
  return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _preprocessing(settings: Mapping[str, Any]) -> Preprocessing | None:
  """As the library's processors: ConvNext's takes crop_pct of the short side, ViT's no crop."""
  try:
    size = settings["size"]
    side = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
    share = settings.get("crop_pct")
    return Preprocessing(
      tuple(map(float, settings["image_mean"])),
      tuple(map(float, settings["image_std"])),
      255.0,
      size=side,
      resize=None if share is None else math.floor(side / share),
      interpolation=_INTERPOLATIONS.get(settings.get("resample")),  # type: ignore[arg-type]
    )
  except (LookupError, TypeError, ValueError):
    return None
