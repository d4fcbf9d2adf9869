"""What a run's network expects of pictures, and its classes' names, as a file in its directory.

With it the run predicts without its data set, and without what `prepare` computed.
"""

import io
import pathlib
from typing import Any

import numpy as np

from resnet_jax.data.dataset import Dataset
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.run.files import write_whole

_FILE = "preprocessing.npz"


def write_preprocessing(workdir: pathlib.Path, dataset: Dataset) -> None:
  """Writes that of a data set, as a whole or not at all."""
  found = dataset.preprocessing
  values: dict[str, Any] = {
    "mean": found.mean,
    "std": found.std,
    "scale": found.scale,
    "channels": found.channels,
    "size": found.size,
    "resize": found.resize,
    "interpolation": found.interpolation,
    "mean_image": found.mean_image,
    "class_names": dataset.class_names,
  }
  content = io.BytesIO()
  known: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
  np.savez_compressed(content, **known)
  workdir.mkdir(parents=True, exist_ok=True)
  write_whole(workdir / _FILE, content.getvalue())


def find_preprocessing(
  workdir: pathlib.Path,
) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
  """What the network of a run expects of pictures, and the names of its classes.

  None each where nothing says it, in a run of an earlier version: training on writes it.

  Raises:
    UserError: The file is damaged.
  """
  path = workdir / _FILE
  try:
    with np.load(path, allow_pickle=False) as file:
      values = {name: file[name] for name in file.files}
    names = tuple(map(str, values.pop("class_names")))
    image = values.pop("mean_image", None)
    fields = {name: _plain(value) for name, value in values.items()}
    return Preprocessing(**fields, mean_image=image), names
  except FileNotFoundError:
    return None, None
  except Exception as error:  # what damage leads to is of any class
    raise UserError(
      f"{path} is damaged ({error}): the run's train command, given again, writes it anew"
    ) from None


def _plain(value: np.ndarray) -> Any:
  found = value.tolist()
  return tuple(found) if isinstance(found, list) else found
