"""Finding what tensorflow-datasets has prepared, in a local folder or a bucket.

A prepared set lies in `DATA_DIR/NAME[/CONFIG]/VERSION/`. Its description is read by
tensorflow-datasets itself, which needs neither the code that prepared it nor TensorFlow.
"""

import dataclasses
import difflib
import os
import pathlib
import re
import tempfile
from typing import Any

from resnet_jax.data.data_folder import DataFolder, LocalFolder
from resnet_jax.data.prepared import (
  chosen_data_dir,
  is_address,
  prepare_command,
  resolve_data_dir,
)
from resnet_jax.data.remote_folder import RemoteFolder
from resnet_jax.data.tfds_builder import import_tfds
from resnet_jax.errors import UserError

_NAME = re.compile(r"(?P<name>\w+(/[\w.+-]+)?)(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_INFO = "dataset_info.json"
# Beside it: the features, and the names of the classes.
_DESCRIPTION = re.compile(r".*\.(json|txt)")


@dataclasses.dataclass(frozen=True)
class PreparedSet:
  """A prepared data set.

  Attributes:
    name: As it was asked for.
    folder: Where its files lie.
    info: Its `tfds.core.DatasetInfo`.
  """

  name: str
  folder: DataFolder
  info: Any

  def shard_names(self, split: str) -> list[str]:
    """Names of the files of a split, in their order."""
    return [os.path.basename(os.fspath(path)) for path in self.info.splits[split].filepaths]


def find_folder(name: str, data_dir: str | None) -> DataFolder | None:
  """The folder of a prepared set: that of the newest version, unless the name says which.

  Args:
    name: `NAME`, `NAME/CONFIG`, either with `:VERSION`. `NAME` alone stands for the only config.
    data_dir: See `prepared.chosen_data_dir`.

  Returns:
    None if it is not there.

  Raises:
    UserError: There are several configs to choose from, or a bucket does not answer.
  """
  parsed = _NAME.fullmatch(name)
  if parsed is None:
    return None
  root = _open_root(data_dir).child(parsed["name"])
  found = _newest(root, parsed["version"])
  if found or "/" in name:
    return found
  configs = [
    config
    for config in root.names()
    if not config.startswith(".") and _newest(root.child(config), parsed["version"])
  ]
  if len(configs) > 1:
    choices = ", ".join(f"{parsed['name']}/{config}" for config in configs)
    raise UserError(f"{name} is prepared in several configurations: name one of {choices}")
  return _newest(root.child(configs[0]), parsed["version"]) if configs else None


def _open_root(data_dir: str | None) -> DataFolder:
  if is_address(data_dir):
    return RemoteFolder(chosen_data_dir(data_dir))
  return LocalFolder(resolve_data_dir(data_dir))


def _newest(folder: DataFolder, version: str | None) -> DataFolder | None:
  versions = [
    name for name in folder.names() if _VERSION.fullmatch(name) and version in (None, name)
  ]
  for newest in sorted(versions, key=lambda name: [*map(int, name.split("."))], reverse=True):
    child = folder.child(newest)
    if _INFO in child.names():  # tensorflow-datasets writes it last.
      return child
  return None


def find_prepared(name: str, data_dir: str | None) -> PreparedSet | None:
  """A prepared data set, in any version; see `find_folder`.

  Returns:
    None if it is not there.

  Raises:
    UserError: tensorflow-datasets is missing, or see `find_folder`.
  """
  import_tfds()
  folder = find_folder(name, data_dir)
  if folder is None:
    return None
  if isinstance(folder, LocalFolder):
    return PreparedSet(name, folder, _read_info(folder, folder.path))
  assert isinstance(folder, RemoteFolder)
  # tensorflow-datasets has its own way to some buckets, by TensorFlow. So it sees a copy.
  with tempfile.TemporaryDirectory(prefix="resnet_jax-") as copy:
    for file in folder.names():
      if _DESCRIPTION.fullmatch(file):
        (pathlib.Path(copy) / file).write_bytes(folder.read_whole(file))
    return PreparedSet(name, folder, _read_info(folder, copy))


def _read_info(folder: DataFolder, path: str | os.PathLike[str]) -> Any:
  try:
    return import_tfds().builder_from_directory(path).info
  except Exception as error:  # Its readers of JSON and protocol buffers raise all sorts.
    reason, *_ = str(error).splitlines() or [type(error).__name__]
    raise UserError(
      f"{folder.locate('').rstrip('/')} has a damaged description ({reason}): copy it again, or "
      "delete it and prepare again"
    ) from None


def open_prepared(name: str, data_dir: str | None, own_root: str | None = None) -> PreparedSet:
  """As `find_prepared`.

  Args:
    name: See `find_folder`.
    data_dir: See `prepared.chosen_data_dir`.
    own_root: See `prepared.prepared_dir`; for the message.

  Raises:
    UserError: If it is not there.
  """
  found = find_prepared(name, data_dir)
  if found is None:
    where = chosen_data_dir(data_dir)
    if is_address(where):
      raise UserError(
        f"{name} is not prepared in {where}: run `resnet-jax prepare {name} --data-dir DIR` with "
        f"a local DIR and copy DIR/{name} there"
      )
    raise UserError(
      f"{name} is not prepared in {resolve_data_dir(data_dir)}: "
      f"run `{prepare_command(data_dir, name, own_root)}`"
    )
  return found


def supervised_features(name: str, info: Any) -> tuple[str, str]:
  """Names of the image and the label among the features of a data set.

  Raises:
    UserError: If it is not a data set of images with one label each.
  """
  tfds = import_tfds()
  features = info.features

  def is_pair(keys: Any) -> bool:
    return (
      isinstance(keys, tuple)
      and len(keys) == 2
      and isinstance(features[keys[0]], tfds.features.Image)
      and isinstance(features[keys[1]], tfds.features.ClassLabel)
    )

  if is_pair(info.supervised_keys):
    return info.supervised_keys
  kinds = (tfds.features.Image, tfds.features.ClassLabel)
  # Some sets name no pair, and yet have but one image and one label.
  named = dict(features.items()) if hasattr(features, "items") else {}
  found = [[key for key, value in named.items() if type(value) is kind] for kind in kinds]
  if info.supervised_keys is None and [len(keys) for keys in found] == [1, 1]:
    return found[0][0], found[1][0]
  raise UserError(f"{name} is not a data set of images with one label each: choose another")


def require_known(name: str, data_dir: str | None, built_in: tuple[str, ...]) -> None:
  """Raises a UserError unless a set is prepared or tensorflow-datasets could prepare it.

  Args:
    name: See `find_folder`.
    data_dir: See `prepared.chosen_data_dir`.
    built_in: The names to list beside those of tensorflow-datasets.
  """
  parsed = _NAME.fullmatch(name)
  others = (
    f"choose one of {', '.join(built_in)}, or any set of images with one label each that "
    "tensorflow-datasets has, which `resnet-jax prepare NAME` prepares"
  )
  unknown = f"unknown data set {name!r}"
  try:
    tfds = import_tfds()
  except UserError as error:
    raise UserError(f"{unknown}: {others} ({error})") from None
  base = parsed["name"].split("/")[0] if parsed else name
  known = tfds.list_builders(with_community_datasets=False)
  if base in known or (parsed and find_folder(name, data_dir)):
    return
  close = difflib.get_close_matches(base.lower(), (*built_in, *known), n=5)
  hint = f" (perhaps {' or '.join(close)}?)" if close else ""
  raise UserError(f"{unknown}{hint}: {others}")
