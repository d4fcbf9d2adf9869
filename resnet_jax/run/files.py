"""Files that readers see whole, whenever the process that writes them, or the machine, dies."""

import os
import pathlib
import shutil
from collections.abc import Mapping

from resnet_jax.errors import UserError


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file under a temporary name and renames it: it is there as a whole, or as before."""
  new = path.with_name(path.name + ".new")
  try:
    new.write_bytes(content)
    sync(new)
    new.replace(path)
  except OSError:
    new.unlink(missing_ok=True)
    raise


def write_directory(directory: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes a directory of files: it is there as a whole, or not at all.

  Args:
    directory: One that is absent or empty (`require_free`).
    files: What each holds, by its name.
  """
  new = directory.with_name(directory.name + ".new")
  shutil.rmtree(new, ignore_errors=True)  # what a kill left
  new.mkdir(parents=True)
  try:
    for name, content in files.items():
      write_whole(new / name, content)
    sync(new)
    new.replace(directory)
  except OSError:
    shutil.rmtree(new, ignore_errors=True)
    raise
  sync(directory.parent)


def sync(path: pathlib.Path) -> None:
  """Returns once a file's content, or a directory's list of files, would outlast a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def require_free(directory: pathlib.Path) -> None:
  """Raises a UserError unless a directory is absent or empty."""
  if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
    raise UserError(f"{directory} is there already: choose another directory, or remove it")
