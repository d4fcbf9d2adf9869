"""Weights as a directory: the arrays, and what one has to know to use them.

`weights.safetensors` holds them under the names of checkpoints, "params/head/kernel", no blocks
scanned; `weights.json` the network, where they are from, what they expect of pictures, and the
digest of the arrays.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.models.config import ModelConfig
from resnet_jax.run.files import require_free, write_directory
from resnet_jax.weights.array_files import read_safetensors
from resnet_jax.weights.info_files import encode_info, read_info_file, read_verified
from resnet_jax.weights.plain_arrays import flat, from_arrays, image_channels

ARRAYS, INFO = "weights.safetensors", "weights.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class WeightsInfo:
  """What is known of weights.

  Attributes:
    model: The network that they are of.
    source: What they come from: torchvision, timm, transformers, akamaster, keras, run, or another
      word.
    file: What was read: a file's name, or a hub's.
    file_sha256: Its digest, if it was a file.
    preprocessing: What the network takes; None if not known.
    class_names: Of the network's outputs, without the first `class_offset`; None if not known.
    class_offset: How many outputs stand before that of class 0.
    top1: Accuracy in [0, 1] that its makers published of these very weights; None if not known.
    sha256: Of the stored arrays; "" before they are.
    format: Of the directory.
  """

  model: ModelConfig
  source: str
  file: str = ""
  file_sha256: str | None = None
  preprocessing: Preprocessing | None = None
  class_names: tuple[str, ...] | None = None
  class_offset: int = 0
  top1: float | None = None
  sha256: str = ""
  format: int = _FORMAT

  def create(self, **more: Any) -> Network:
    """The network, with `more` fields; raises `UserError`."""
    try:
      return self.model.create(**more)
    except ValueError as error:
      raise UserError(str(error)) from None


def save_weights(directory: str | pathlib.Path, variables: Any, info: WeightsInfo) -> WeightsInfo:
  """Writes a directory of weights, as a whole or not at all.

  Args:
    directory: One that is not there yet, or is empty.
    variables: Those of `info.create()`, scanned or not.
    info: What is known of them.

  Returns:
    `info` as it is stored: with the digest.

  Raises:
    UserError: The variables are not those of the network, or the directory is taken; or what is
      known is not plain numbers and texts, as a mean image.
  """
  directory = pathlib.Path(directory)
  require_free(directory)
  arrays = {name: _storable(leaf) for name, leaf in flat(variables).items()}
  _check(info.create(), arrays, info)
  from safetensors.numpy import save

  content = save(arrays)
  info = dataclasses.replace(info, sha256=hashlib.sha256(content).hexdigest())
  write_directory(directory, {ARRAYS: content, INFO: encode_info(info)})
  return info


def load_weights(
  directory: str | pathlib.Path, **overrides: Any
) -> tuple[Network, dict[str, Any], WeightsInfo]:
  """A network and its variables from a directory of weights.

  Args:
    directory: What `save_weights` or `resnet-jax convert` wrote.
    **overrides: Fields of the network that shall differ from those stored, for example
      `dtype="bfloat16"`, `scan=True` or `frozen_bn=True`.

  Returns:
    The network; its variables, as NumPy arrays; and what is known of them.

  Raises:
    UserError: There are none, or they are damaged, or do not fit the network.
  """
  info, arrays = read_weights_directory(directory)
  model = info.create(**overrides)
  return model, _check(model, arrays, info), info


def read_weights_directory(
  directory: str | pathlib.Path,
) -> tuple[WeightsInfo, dict[str, np.ndarray]]:
  """What is known of weights, and the arrays by name, once their digest is right.

  Raises:
    UserError: There are none, or they are damaged.
  """
  info, path = read_info(directory), pathlib.Path(directory) / ARRAYS
  content = read_verified(path, info.sha256, "convert the weights again")
  return info, read_safetensors(content, path)


def read_info(directory: str | pathlib.Path) -> WeightsInfo:
  """What is known of the weights in a directory, without reading them; raises `UserError`."""
  return read_info_file(
    pathlib.Path(directory) / INFO,
    WeightsInfo,
    f"{directory} is no directory of weights: it has no {INFO} (resnet-jax convert makes one)",
  )


def require_preprocessing(where: str | pathlib.Path, info: WeightsInfo) -> Preprocessing:
  """What weights expect of pictures; raises a UserError that says `where` if it is not known."""
  if info.preprocessing is not None:
    return info.preprocessing
  if info.source == "run":
    raise UserError(
      f"what {where} expects of pictures is not known: an earlier version trained it; its train "
      "command, given again, writes it down"
    )
  raise UserError(
    f"what the weights in {where} expect of pictures is not known: write it into their {INFO} as "
    "preprocessing, or convert them again with the config.json of their makers beside them"
  )


def is_weights_directory(directory: str | pathlib.Path) -> bool:
  """Whether a directory holds weights, rather than a run."""
  return (pathlib.Path(directory) / INFO).is_file()


def _storable(leaf: Any) -> np.ndarray:
  """An array of a dtype that NumPy has: bfloat16 is widened, and narrowed again when it is read."""
  array = np.asarray(leaf)
  return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _check(model: Network, arrays: Mapping[str, np.ndarray], info: WeightsInfo) -> dict[str, Any]:
  """The arrays as variables; raises a UserError unless they are a network's, and named rightly."""
  size = info.preprocessing.size if info.preprocessing is not None else None
  image_shape = (size or 224, size or 224, image_channels(arrays))
  variables = from_arrays(model, arrays, lambda name: name, image_shape=image_shape)
  outputs = getattr(model, "num_classes", 0)
  if info.class_names is not None and len(info.class_names) + info.class_offset != outputs:
    raise UserError(
      f"{len(info.class_names)} class names and an offset of {info.class_offset} for {outputs} "
      "outputs: give a name for each output after the offset"
    )
  return variables
