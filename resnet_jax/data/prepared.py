"""Where prepared data lies: the data directory, and the files that `prepare` writes itself.

`DATA_DIR/<dataset>/…` belongs to tensorflow-datasets. Ours are `statistics.npz` and, for TFRecord
files, `index-<split>.npz` for sets that are streamed, and `images.npz` for sets that fit in memory.
They lie in `DATA_DIR/resnet_jax/<dataset>/`; in `PREPARED_DIR/<dataset>/` where the config names a
`prepared_dir`; and for data in a bucket otherwise in a folder of the user's cache. Each file
appears whole or not at all.
"""

import functools
import hashlib
import os
import pathlib
import re
import shlex

import numpy as np

from resnet_jax.data.remote_filesystem import answered, open_filesystem
from resnet_jax.errors import UserError


def chosen_data_dir(data_dir: str | os.PathLike[str] | None) -> str:
  """The data directory as it was named: a local folder, or an address such as `gs://bucket/data`.

  Args:
    data_dir: None stands for the environment variable TFDS_DATA_DIR, or else
      ~/tensorflow_datasets, as tensorflow-datasets itself has it.
  """
  return os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def is_address(data_dir: str | os.PathLike[str] | None) -> bool:
  """Whether a data directory is the address of a remote store rather than a local folder."""
  return "://" in chosen_data_dir(data_dir)


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """The local data directory.

  Args:
    data_dir: See `chosen_data_dir`.

  Raises:
    UserError: For the address of a remote store.
  """
  chosen = chosen_data_dir(data_dir)
  if is_address(chosen):
    raise UserError(f"the data directory {chosen} is not a local folder: mount or copy it first")
  return pathlib.Path(chosen).expanduser()


def prepared_dir(
  data_dir: str | os.PathLike[str] | None,
  dataset: str,
  own_root: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """The folder of the files that `resnet-jax prepare` writes for one data set.

  Args:
    data_dir: See `chosen_data_dir`.
    dataset: Name of the data set.
    own_root: The config's `prepared_dir`: a local folder instead of DATA_DIR/resnet_jax (or, for
      data in a bucket, instead of the cache: $XDG_CACHE_HOME or ~/.cache). Of one in a bucket it
      is a copy in the cache, fetched once a process.

  Raises:
    UserError: `own_root` is the address of a store that does not answer.
  """
  if own_root is not None:
    if is_address(own_root):
      return _fetched(os.fspath(own_root).rstrip("/"), dataset)
    return pathlib.Path(own_root).expanduser() / dataset
  if is_address(data_dir):
    return cache_of(chosen_data_dir(data_dir), "prepared") / dataset
  return resolve_data_dir(data_dir) / "resnet_jax" / dataset


@functools.cache
def _fetched(own_root: str, dataset: str) -> pathlib.Path:
  """A copy of the files that `prepare` wrote, and that were put into a bucket for all hosts."""
  address, folder = f"{own_root}/{dataset}", cache_of(own_root, "prepared") / dataset
  filesystem = open_filesystem(address)
  folder.mkdir(parents=True, exist_ok=True)
  try:
    there = answered(lambda: filesystem.ls(address, detail=False), address)
    for path in there:
      whole = folder / path.rsplit("/", 1)[-1]
      # Under a name of its own: other processes of this host fetch it at the same time.
      new = whole.with_name(f".{whole.name}.{os.getpid()}")
      answered(functools.partial(filesystem.get_file, path, str(new)), address)
      new.replace(whole)
  except FileNotFoundError:
    raise UserError(
      f"prepared_dir={own_root} has no {dataset}: prepare it with a local --prepared-dir, and copy "
      "that there"
    ) from None
  except OSError as error:
    raise UserError(f"{error}: check prepared_dir, the network and your credentials") from None
  return folder


def cache_of(address: str, kind: str) -> pathlib.Path:
  """The folder of the user's cache for what belongs to an address, one for each kind of it."""
  address = address.rstrip("/")
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
  # Readable, and by the hash one folder an address: "a/b" and "a-b" would be one otherwise.
  readable = re.sub(r"[^A-Za-z0-9.]+", "-", address).strip("-")[:80]
  digest = hashlib.blake2b(address.encode(), digest_size=4).hexdigest()
  return cache / "resnet_jax" / kind / f"{readable}-{digest}"


def prepare_command(
  data_dir: str | os.PathLike[str] | None,
  dataset: str,
  own_root: str | os.PathLike[str] | None = None,
) -> str:
  """The command that prepares a data set, for messages; arguments as `prepared_dir`'s."""
  chosen = chosen_data_dir(data_dir)
  root = chosen if is_address(chosen) else str(resolve_data_dir(chosen))
  command = f"resnet-jax prepare {dataset} --data-dir {shlex.quote(root)}"
  if own_root is not None:
    command += f" --prepared-dir {shlex.quote(os.fspath(own_root))}"
  return command


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


def require_writable(folder: pathlib.Path) -> None:
  """Makes a folder for prepared files, before long work whose result would not fit anywhere.

  Raises:
    UserError: If it cannot be made or written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
      return
    reason = "permission denied"
  except OSError as error:
    reason = error.strerror or str(error)
  raise UserError(
    f"{folder} cannot be written ({reason}): name another folder with --prepared-dir, and set "
    "data.prepared_dir to it in training"
  )
