"""Configs as files, as command-line arguments and as JSON.

A config file is Python: its `get_config(arg)` returns a frozen dataclass, and
`--config.optimizer.learning_rate=0.4` replaces a field of what it returned. Nothing here knows what
the fields mean; the model section alone is special, in that its fields are those of the network.
"""

import dataclasses
import difflib
import importlib.resources
import importlib.util
import inspect
import itertools
import math
import pathlib
import re
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.models.config import ModelConfig, configurable_fields

C = TypeVar("C")


def built_in_names() -> list[str]:
  """The experiments that travel with the package, which `--config` finds by name anywhere."""
  files = built_in_folder().iterdir()
  return sorted(p.stem for p in files if p.suffix == ".py" and p.stem != "__init__")


def load_config(reference: str, kind: type[C]) -> C:
  """The config that an experiment file returns.

  Args:
    reference: FILE or FILE:ARG, FILE being a Python file or the name of a built-in experiment.
    kind: The dataclass that it must return.

  Raises:
    UserError: There is no such file, or it returns something else; a value of a wrong type.
  """
  file, _, arg = reference.partition(":")
  path = pathlib.Path(file)
  if path.suffix != ".py":
    if file not in built_in_names():
      near = difflib.get_close_matches(file, built_in_names(), n=1)
      hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(built_in_names())}"
      raise UserError(f"no built-in experiment is called {file!r}: {hint} (or give a .py file)")
    path = built_in_folder() / f"{file}.py"
  if not path.is_file():
    raise UserError(f"config file {file} does not exist")
  module = load_module(path)
  if not hasattr(module, "get_config"):
    raise UserError(f"{path} has no function get_config() that returns a Config")
  get_config = module.get_config
  try:
    takes_arg = bool(inspect.signature(get_config).parameters)
    if arg and not takes_arg:
      raise UserError(f"{file} takes no argument, {arg!r} was given")
    config = get_config(arg) if arg else get_config()
  except ValueError as error:
    raise UserError(f"{reference}: {error}") from None
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise mistake_in(path, error) from error
  if not isinstance(config, kind):
    raise UserError(f"get_config of {file} returned a {type(config).__name__}, not a Config")
  try:
    check_config(config)
  except UserError as error:
    raise UserError(f"{reference}: {error}") from None
  return config


def override_config(config: C, arguments: Sequence[str], prog: str) -> C:
  """Replaces fields of a config by `--config.a.b=VALUE` arguments.

  Prints a message and exits with 2, as command lines do, where an argument names no field or its
  value has the wrong type; prints all fields and exits with 0 for `--help`.

  Args:
    config: The default of every field.
    arguments: The arguments; sequences are given as `--config.a.b V1 V2`, or =V1,V2 where they are
      of numbers.
    prog: Name of the command, for messages.
  """
  if not arguments:
    return config
  # Imported here because it takes a fifth of a second.
  import tyro

  model, network = _named_model(config, arguments)
  names = configurable_fields(network)
  model_kind = dataclasses.make_dataclass(
    "Model",
    [("name", str), *((name, _one_literal(hint)) for name, (hint, _) in names.items())],
    frozen=True,
    namespace={"__doc__": type(network).__doc__},
  )
  sections = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
  hints = get_type_hints(type(config)) | {"model": model_kind}
  kind = dataclasses.make_dataclass(
    "Config",
    [(section, hints[section]) for section in sections],
    frozen=True,
    namespace={"__doc__": type(config).__doc__},
  )
  values = {section: getattr(config, section) for section in sections}
  values["model"] = model_kind(model.name, **{name: value for name, (_, value) in names.items()})
  command: Any = dataclasses.make_dataclass("Command", [("config", kind)], frozen=True)
  flags_take_values: Any = tyro.conf.FlagConversionOff  # `--flag=True`, like any other field
  parsed = tyro.cli(
    flags_take_values[command],
    prog=prog,
    args=[word for argument in arguments for word in _separated(argument)],
    default=command(kind(**values)),
    use_underscores=True,
  ).config
  chosen = {section: getattr(parsed, section) for section in sections}
  fields = {name: getattr(parsed.model, name) for name in names}
  paper = configurable_fields(ModelConfig(model.name).create())
  # A value that somebody gave is kept even where it is the paper's.
  given = set(model.overrides) | set(_arguments_of("model", arguments))
  differing = {
    name: value for name, value in fields.items() if name in given or value != paper[name][1]
  }
  return type(config)(**chosen | {"model": ModelConfig(model.name, differing)})


def override_model(model: ModelConfig, arguments: Sequence[str], prog: str) -> ModelConfig:
  """Replaces fields of a network by `--config.model.FIELD=VALUE` arguments: see `override_config`.

  Args:
    model: The network.
    arguments: The arguments.
    prog: Name of the command, for messages.
  """
  return override_config(_ModelSection(model), arguments, prog).model


@dataclasses.dataclass(frozen=True)
class _ModelSection:
  """The fields of a network.

  Attributes:
    model: The network.
  """

  model: ModelConfig


def to_json(config: Any) -> Any:
  """A config, or a part of one, as plain dictionaries, lists, texts and numbers."""
  # With all fields: of what msgspec has read, it writes only those that were there.
  values = config
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    values = dataclasses.asdict(config)
  try:
    return msgspec.json.decode(msgspec.json.encode(values))
  except TypeError as error:
    raise UserError(f"config: a value is no number, text, list or dictionary: {error}") from None


def from_json(values: Any, kind: type[C]) -> C:
  """The config that `to_json` wrote.

  Raises:
    UserError: A field is unknown to this version, or a value has the wrong type.
  """
  try:
    config = msgspec.convert(values, kind)
  except msgspec.ValidationError as error:
    raise UserError(f"config: {str(error).replace('$.', '')}") from None
  known = dict(leaves(to_json(config)))
  for path, _ in leaves(values):
    if path not in known:
      raise UserError(f"config: this version knows no field {path}")
  return config


def check_config(config: Any) -> None:
  """Raises a UserError unless every value of a config has its type and lies in its range."""
  values = to_json(config)
  for path, value in leaves(msgspec.to_builtins(config)):
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"config: {path}={value} is not finite")
  from_json(values, type(config))


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
  """The fields, by dotted path, in which two configs (or their JSON) differ, with both values."""
  before, after = dict(leaves(to_json(old))), dict(leaves(to_json(new)))
  return {
    path: (before.get(path), after.get(path))
    for path in before | after
    if before.get(path) != after.get(path)
  }


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  """Dotted path and value of everything that is not a dictionary."""
  if isinstance(values, dict):
    for name, value in values.items():
      yield from leaves(value, f"{path}.{name}" if path else name)
  else:
    yield path, values


def _named_model(config: Any, arguments: Sequence[str]) -> tuple[ModelConfig, Network]:
  """Returns the config's network, or the one that the arguments name instead."""
  name = _arguments_of("model", arguments).get("name")
  model = dataclasses.replace(config.model, name=name) if name else config.model
  try:
    return model, model.create()
  except (ValueError, TypeError) as error:
    raise UserError(f"config.model: {error}") from None


def _arguments_of(section: str, arguments: Sequence[str]) -> dict[str, str]:
  """The fields of a section that the arguments name, with (the first word of) their last value."""
  text = "\0".join(arguments)
  return dict(re.findall(rf"(?:^|\0)--config\.{section}\.(\w+)[=\0]([^\0]*)", text))


def _separated(argument: str) -> list[str]:
  """`--config.a.b=3,4,6` as the words that a sequence is parsed from; others as they are."""
  found = re.fullmatch(r"(--config\.[\w.]+)=(-?[\d.]+(?:,-?[\d.]+)+)", argument)
  return [found[1], *found[2].split(",")] if found else [argument]


def _one_literal(hint: Any) -> Any:
  """A union of literals and None as one literal, whose values tyro always lists in their order."""
  kinds = get_args(hint)
  if not kinds or not all(k is type(None) or get_origin(k) is Literal for k in kinds):
    return hint
  import tyro.extras

  values = (get_args(kind) or (None,) for kind in kinds)
  return tyro.extras.literal_type_from_choices(itertools.chain.from_iterable(values))


def built_in_folder() -> pathlib.Path:
  """The experiments inside the package, or beside it in a clone."""
  package = pathlib.Path(str(importlib.resources.files("resnet_jax")))
  inside = package / "experiments"
  return inside if inside.is_dir() else package.parent / "experiments"


def load_module(path: pathlib.Path) -> ModuleType:
  """Runs a Python file of the user's, an experiment or a sweep; raises a UserError if it fails."""
  spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path.resolve())
  if spec is None or spec.loader is None:
    raise UserError(f"{path} cannot be loaded as Python")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise mistake_in(path, error) from error
  return module


def mistake_in(path: pathlib.Path, error: BaseException) -> UserError:
  """An experiment file is a program of the user's: says in one line where it went wrong."""
  if isinstance(error, SyntaxError):
    return UserError(f"{path}, line {error.lineno}: {error.msg}")
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
  where = f"{path}, line {lines[-1]}" if lines else str(path)
  return UserError(f"{where}: {type(error).__name__}: {error}")
