"""What each foreign format says of its weights, for `convert` to use."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.plain_arrays import Kernels


@dataclasses.dataclass(frozen=True)
class ForeignFile:
  """A file that was read.

  Attributes:
    name: The file's, or a hub's.
    path: Where it lies.
    sha256: Its digest.
    arrays: What it holds.
    settings: What stands in the JSON files beside it, by their names: `config.json` and
      `preprocessor_config.json`, as hubs have them.
  """

  name: str
  path: pathlib.Path
  sha256: str
  arrays: Mapping[str, np.ndarray]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Foreign:
  """The same weights, described in this package's terms.

  Attributes:
    arrays: Under the format's names.
    names: From names here to those.
    fields: What the weights need of the network.
    kernels: The axes of convolutions.
    ignored: Patterns of names of what is not a weight.
    preprocessing: What the weights expect; None if nothing says it.
    class_names: None if nothing says them.
    top1: Published accuracy of these very weights; None if not known.
  """

  arrays: Mapping[str, np.ndarray]
  names: Callable[[str], str]
  fields: Mapping[str, Any]
  kernels: Kernels = "OIHW"
  ignored: tuple[str, ...] = ("*.num_batches_tracked",)
  preprocessing: Preprocessing | None = None
  class_names: tuple[str, ...] | None = None
  top1: float | None = None


def torch_fields(model: ResNet, stride_in: str = "3x3") -> dict[str, Any]:
  """What PyTorch's residual networks do otherwise than the paper, where a network has the choice.

  Args:
    model: The network of the paper.
    stride_in: Where they stride in a bottleneck.
  """
  fields: dict[str, Any] = {"conv_padding": "symmetric", "bn_epsilon": 1e-5}
  if model.block == "bottleneck":
    fields["stride_in"] = stride_in
  if model.stem != "cifar":
    fields["pool_padding"] = (1, 1)
  return fields
