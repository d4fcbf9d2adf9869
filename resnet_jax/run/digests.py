"""Digests of the files of a directory: whether it is still, bit for bit, what was written.

They stand in `digests.json`, in the directory itself, with the size of each file. What reads the
files need not notice a flipped bit; the digests do.
"""

import hashlib
import json
import os
import pathlib

from resnet_jax.run.files import sync

FILE = "digests.json"


def seal(directory: pathlib.Path) -> None:
  """Writes the digests of all files below a directory; returns once all of it is on disk."""
  digests = {}
  for name in _files(directory):
    path = directory / name
    sync(path)
    digests[name] = {"sha256": _digest(path), "size": path.stat().st_size}
  (directory / FILE).write_text(json.dumps({"files": digests}))
  sync(directory / FILE)
  for folder, _, _ in os.walk(directory):
    sync(pathlib.Path(folder))


def damage(directory: pathlib.Path, only: str | None = None) -> str | None:
  """What is wrong with the files below a directory, in words that begin with a file's name.

  Args:
    directory: One that was sealed.
    only: The one file to look at, if it is or was there, instead of all.

  Returns:
    The first thing that is wrong, or None.
  """
  try:
    digests = json.loads((directory / FILE).read_bytes())["files"]
    expected = {name: (entry["size"], entry["sha256"]) for name, entry in digests.items()}
  except OSError as error:
    return f"{FILE}: {_refusal(error)}"
  except (ValueError, LookupError, TypeError, AttributeError):
    return f"{FILE}: not as it was written"
  for name in sorted(expected.keys() | set(_files(directory))):
    if only in (None, name) and (what := _damage_of(directory / name, expected.get(name))):
      return f"{name}: {what}"
  return None


def _damage_of(path: pathlib.Path, expected: tuple[int, str] | None) -> str | None:
  """What is wrong with a file, given the size and digest that it should have, if any."""
  if expected is None:
    return "was not written with the others"
  size, digest = expected
  try:
    if path.stat().st_size != size:
      return f"{path.stat().st_size} bytes, not {size}"
    return None if _digest(path) == digest else "not the bits that were written"
  except OSError as error:
    return _refusal(error)


def _refusal(error: OSError) -> str:
  return "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)


def _files(directory: pathlib.Path) -> list[str]:
  """The files below a directory but for the digests, by relative path."""
  paths = (path for path in directory.rglob("*") if not path.is_dir())
  return sorted({path.relative_to(directory).as_posix() for path in paths} - {FILE})


def _digest(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
