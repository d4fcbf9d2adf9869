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
from resnet_jax.run.files import write_whole

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
    except OSError as error:
      raise UserError(f"workdir {workdir} cannot be locked: {error.strerror}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield


def check_claim(
  workdir: pathlib.Path, config: Any, changeable: Sequence[str]
) -> dict[str, tuple[Any, Any]]:
  """Makes sure, writing nothing, that a directory is this run's or can become so.

  Args:
    workdir: The run's directory.
    config: The config that is to run.
    changeable: Dotted paths of the fields in which a run that resumes may differ.

  Returns:
    The fields in which the run that is there differs: the values there, and here.

  Raises:
    UserError: The directory holds a run with another config, or something else.
  """
  if not (workdir / "config.json").exists():
    for name in ("checkpoints", "metrics.jsonl", "environment.json"):
      if (workdir / name).exists():
        raise UserError(f"workdir {workdir} has {name} but no config.json: choose another one")
    return {}
  differing = differences(read_config(workdir, type(config)), config)
  refused = {name: values for name, values in differing.items() if name not in changeable}
  if refused:
    fields = "; ".join(f"{name} is {a!r}, not {b!r}" for name, (a, b) in refused.items())
    raise UserError(
      f"workdir {workdir} holds a run with another config: {fields}. Choose another --workdir, "
      "or give the config that it has"
    )
  return differing


def claim(workdir: pathlib.Path, config: Any, changeable: Sequence[str]) -> None:
  """Records a run's config in its directory; arguments and errors are those of `check_claim`."""
  check_claim(workdir, config, changeable)
  write_json(workdir / "config.json", to_json(config))


def read_config(workdir: pathlib.Path, kind: type[C]) -> C:
  """The config of the run in a directory.

  Raises:
    UserError: There is none, or it is not one that this version knows.
  """
  path = workdir / "config.json"
  try:
    values = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(f"{workdir} is not the directory of a run: it has no config.json") from None
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  except ValueError as error:
    raise UserError(f"{path} is not valid JSON: {error}") from None
  try:
    return from_json(values, kind)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes a JSON file as a whole or not at all."""
  write_whole(path, (json.dumps(values, indent=2) + "\n").encode())
