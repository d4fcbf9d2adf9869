"""Fields of a config by dotted path: replaced, and as the arguments that replace them."""

import contextlib
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.models.config import ModelConfig, configurable_fields
from resnet_jax.run.config import check_config, differences, from_json, leaves, override_config
from resnet_jax.run.config import to_json as config_to_json
from resnet_jax.training.config import Config

# What the command line would take for a sequence of numbers.
_NUMBERS = re.compile(r"-?[\d.]+(?:,-?[\d.]+)+")


def replace_fields(config: Config, overrides: Mapping[str, Any]) -> Config:
  """Replaces fields of a config, as `--config.FIELD=VALUE` does.

  Args:
    config: The config.
    overrides: Values by dotted path: "optimizer.learning_rate", "model.shortcut", ….

  Raises:
    UserError: There is no such field, or a value has another type or is out of range.
  """
  values = config_to_json(config)
  known = [path for path, _ in leaves(values) if not path.startswith("model.")]
  model, model_fields = _model_fields(config, overrides)
  for path, value in overrides.items():
    *sections, name = path.split(".")
    if path == "model.name":
      values["model"]["name"] = value
    elif sections == ["model"] and name in model_fields:
      values["model"]["overrides"][name] = _checked(path, value, model_fields[name][0])
    elif path in known:
      section = values
      for each in sections:
        section = section[each]
      section[name] = value
    else:
      raise _unknown(path, [*known, "model.name", *(f"model.{name}" for name in model_fields)])
  replaced = from_json(plain(values), Config)
  check_config(replaced)
  try:
    replaced.model.create()
  except (ValueError, TypeError) as error:
    raise UserError(f"{model}: {error}") from None
  return replaced


def plain(value: Any) -> Any:
  """Numpy's numbers and arrays, ranges and tuples as JSON would have them; all else as it is."""
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, dict):
    return {name: plain(item) for name, item in value.items()}
  if isinstance(value, list | tuple | np.ndarray | range):
    return [plain(item) for item in value]
  return value


def to_arguments(overrides: Mapping[str, Any]) -> list[str]:
  """The `--config.…` arguments that replace these fields."""
  arguments: list[str] = []
  for path, value in overrides.items():
    if isinstance(value, list | tuple):
      arguments += [f"--config.{path}", *map(str, value)]
    elif isinstance(value, str) and _NUMBERS.fullmatch(value):
      arguments += [f"--config.{path}", value]
    else:
      arguments.append(f"--config.{path}={value}")
  return arguments


def require_restored(config: Config, arguments: Sequence[str], intended: Config) -> None:
  """Makes sure that a command trains what is intended.

  Raises:
    UserError: The arguments do not make `intended` of `config`: a text that looks like an argument,
      for example, or the text "None" where None may stand.
  """
  said = io.StringIO()
  try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      parsed = override_config(config, arguments, "resnet-jax train")
  except SystemExit:
    words = " ".join(map(repr, arguments))
    raise UserError(f"a value cannot be given on a command line: {words}") from None
  for path, (meant, got) in differences(intended, parsed).items():
    raise UserError(
      f"{path}={meant!r} cannot be given on a command line, which makes {got!r} of it; write it "
      "into the get_config of an experiment"
    )


def _model_fields(
  config: Config, overrides: Mapping[str, Any]
) -> tuple[str, dict[str, tuple[Any, Any]]]:
  """What to call the network in messages, and the fields that a config can set."""
  name = overrides.get("model.name", config.model.name)
  if not isinstance(name, str):
    raise UserError(f"model.name={name!r} is no text")
  model = ModelConfig(name, config.model.overrides)
  try:
    return f"model {name}", configurable_fields(model.create())
  except (ValueError, TypeError) as error:
    raise UserError(f"model.name={name!r}: {error}") from None


def _checked(path: str, value: Any, kind: Any) -> Any:
  try:
    msgspec.convert(plain(value), kind)
  except msgspec.ValidationError as error:
    raise UserError(f"{path}={value!r}: {error}") from None
  return plain(value)


def _unknown(path: str, known: Sequence[str]) -> UserError:
  inside = [name for name in known if name.startswith(f"{path}.")]
  if inside:
    return UserError(f"{path} is a section, not a field: give {inside[0]}, for example")
  last = path.rpartition(".")[2]
  near = [name for name in known if name.rpartition(".")[2] == last]
  near = near or difflib.get_close_matches(path, known, n=1)
  hint = f"did you mean {near[0]}?" if near else "resnet-jax train --config … --help lists all"
  return UserError(f"the config has no field {path}: {hint}")
