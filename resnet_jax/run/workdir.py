"""A run's directory: whose it is, and that one process at a time writes to it."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from resnet_jax.errors import UserError
from resnet_jax.run.config import differences, from_json, to_json

C = TypeVar("C")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Holds a run's directory against a second process; made if it does not exist.

  The lock is the operating system's, so a killed process holds nothing.

  Raises:
    UserError: Another process holds it, or the directory cannot be made.
  """
  path = workdir / "lock"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
  except OSError as error:
    raise UserError(f"workdir {workdir} cannot be used: {error.strerror}") from None
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise UserError(
        f"workdir {workdir} is in use by {file.read().strip() or 'another process'}: wait for it, "
        "stop it, or choose another --workdir"
      ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield


def claim(workdir: pathlib.Path, config: Any, changeable: Sequence[str]) -> None:
  """Records a run's config in its directory, or makes sure that the one there is the same.

  Args:
    workdir: The run's directory.
    config: The config that is to run.
    changeable: Dotted paths of the fields in which a run that resumes may differ.

  Raises:
    UserError: The directory holds a run with another config, or something else.
  """
  path = workdir / "config.json"
  if path.exists():
    old = read_config(workdir, type(config))
    differing = {
      name: values for name, values in differences(old, config).items() if name not in changeable
    }
    if differing:
      fields = "; ".join(f"{name} is {a!r}, not {b!r}" for name, (a, b) in differing.items())
      raise UserError(
        f"workdir {workdir} holds a run with another config: {fields}. Choose another --workdir, "
        "or give the config that it has"
      )
  elif (workdir / "checkpoints").exists() or (workdir / "metrics.jsonl").exists():
    raise UserError(f"workdir {workdir} holds a run without a config.json: choose another one")
  write_json(path, to_json(config))


def read_config(workdir: pathlib.Path, kind: type[C]) -> C:
  """The config of the run in a directory.

  Raises:
    UserError: There is none, or it is not one that this version knows.
  """
  path = workdir / "config.json"
  try:
    values = json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f"{workdir} is not the directory of a run: it has no config.json") from None
  except ValueError as error:
    raise UserError(f"{path} is not valid JSON: {error}") from None
  try:
    return from_json(values, kind)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes a JSON file as a whole or not at all."""
  new = path.with_name(path.name + ".new")
  new.write_text(json.dumps(values, indent=2) + "\n")
  new.replace(path)
