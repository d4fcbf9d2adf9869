"""Files that readers see whole, whenever the process that writes them, or the machine, dies."""

import os
import pathlib

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
