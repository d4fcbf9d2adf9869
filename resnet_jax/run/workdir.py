"""A run's directory: whose it is."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

from resnet_jax.errors import UserError
from resnet_jax.run.config import differences, from_json, to_json
from resnet_jax.run.files import write_whole

C = TypeVar("C")


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
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"workdir {workdir} is not a directory: choose another one")
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
