"""Where prepared data lies: the data directory, and in it the files that `prepare` writes itself.

`DATA_DIR/<dataset>/…` belongs to tensorflow-datasets; `DATA_DIR/resnet_jax/<dataset>/` is ours:
`statistics.npz` and `index-<split>.npz` for sets that are streamed, `images.npz` for sets that fit
in memory. Each file appears whole or not at all.
"""

import os
import pathlib
import shlex

import numpy as np

from resnet_jax.errors import UserError


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """The folder in which tensorflow-datasets keeps its data.

  Args:
    data_dir: A local folder; None stands for the environment variable TFDS_DATA_DIR, or else
      ~/tensorflow_datasets, as tensorflow-datasets itself has it.

  Raises:
    UserError: For the address of a bucket, which this package does not read directly.
  """
  chosen = os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
  if "://" in chosen:
    raise UserError(f"The data directory {chosen} is not a local folder: mount or copy it first.")
  return pathlib.Path(chosen).expanduser()


def prepared_dir(data_dir: str | os.PathLike[str] | None, dataset: str) -> pathlib.Path:
  """The folder of the files that `resnet-jax prepare` writes for one data set."""
  return resolve_data_dir(data_dir) / "resnet_jax" / dataset


def prepare_command(data_dir: str | os.PathLike[str] | None, dataset: str) -> str:
  """The command that prepares a data set, for messages."""
  return f"resnet-jax prepare {dataset} --data-dir {shlex.quote(str(resolve_data_dir(data_dir)))}"


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
  """Writes arrays to `path` under a temporary name and renames: whole, or not there.

  Args:
    path: Where to; its folder is made, and a file that is there is replaced.
    **arrays: Arrays by name, none of dtype object.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with temporary.open("wb") as file:
      np.savez(file, allow_pickle=False, **arrays)
      file.flush()
      os.fsync(file.fileno())  # Or a power cut could leave the new name on an empty file.
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
