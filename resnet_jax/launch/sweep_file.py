"""A sweep as a user writes it: a Python file whose `sweep()` yields overrides.

    config = "digits"  # what `--config` takes; or a get_config of the file's own

    def sweep():
      for rate, seed in itertools.product((0.05, 0.1), range(3)):
        yield {"optimizer.learning_rate": rate, "seed": seed}

A run whose overrides have "config" varies that experiment instead.
"""

import dataclasses
import difflib
import itertools
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.launch.overrides import plain
from resnet_jax.run.config import built_in_folder, load_module, mistake_in

# More are taken for a generator that does not end.
MOST_RUNS = 10_000


@dataclasses.dataclass(frozen=True)
class Variation:
  """One run as the file has it.

  Attributes:
    experiment: What `--config` takes.
    overrides: Values of the config's fields, as JSON would have them, by dotted path; no "config".
    shown: The same with "config", if the run has it: what tells it from the others.
  """

  experiment: str
  overrides: Mapping[str, Any]
  shown: Mapping[str, Any]


def built_in_sweeps() -> list[str]:
  """The sweeps that travel with the package, which are found by name anywhere."""
  return sorted(p.stem for p in _folder().glob("*.py") if p.stem != "__init__")


def read_sweep(file: str) -> list[Variation]:
  """The runs of a sweep file, or of a built-in sweep of that name, in its order.

  Raises:
    UserError: There is no such file, or it is no sweep; the message says where.
  """
  path, module = load_sweep(file)
  if not hasattr(module, "sweep"):
    raise UserError(f"{path} has suggest(), so it is a search: say how many trials with --trials N")
  try:
    yielded = list(itertools.islice(module.sweep(), MOST_RUNS + 1))
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise mistake_in(path, error) from error
  if not yielded:
    raise UserError(f"sweep() of {path} yields nothing: it has no run")
  if len(yielded) > MOST_RUNS:
    raise UserError(f"sweep() of {path} yields more than {MOST_RUNS:,} runs")
  return [
    make_variation(module, path, overrides, f"{path}: run {index + 1} of {len(yielded)}")
    for index, overrides in enumerate(yielded)
  ]


def load_sweep(file: str) -> tuple[pathlib.Path, ModuleType]:
  """A sweep file, or a built-in sweep of that name: where it lies, and what it defines.

  Raises:
    UserError: There is no such file, it cannot be run, or it has not one of sweep() and suggest().
  """
  path = _path(file)
  module = load_module(path)
  has = [name for name in ("sweep", "suggest") if callable(getattr(module, name, None))]
  if not has:
    raise UserError(
      f"{path} has no function sweep() that yields overrides, nor suggest(trial) that returns them"
    )
  if len(has) == 2:
    raise UserError(f"{path} has both sweep() and suggest(): a file is a sweep or a search")
  return path, module


def make_variation(module: ModuleType, path: pathlib.Path, overrides: Any, where: str) -> Variation:
  """A run of what a file gives for it; `where` says which of them, in messages.

  Raises:
    UserError: It gives something else than values by field, or there is no experiment to vary.
  """
  if not isinstance(overrides, Mapping) or not all(isinstance(name, str) for name in overrides):
    raise UserError(
      f"{where} is {overrides!r}: expected are dictionaries of values by field, "
      'such as {"optimizer.learning_rate": 0.1}'
    )
  shown = plain(dict(overrides))
  fields = dict(shown)
  own = str(path) if hasattr(module, "get_config") else None
  experiment = fields.pop("config", getattr(module, "config", own))
  if not isinstance(experiment, str):
    raise UserError(
      f'{where} varies no experiment: write config = "digits", say, or get_config() into the file'
    )
  return Variation(experiment, fields, shown)


def _path(file: str) -> pathlib.Path:
  path = pathlib.Path(file)
  if path.suffix != ".py":
    names = built_in_sweeps()
    if file not in names:
      near = difflib.get_close_matches(file, names, n=1)
      hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
      raise UserError(f"no built-in sweep is called {file!r}: {hint} (or give a .py file)")
    path = _folder() / f"{file}.py"
  if not path.is_file():
    raise UserError(f"sweep file {file} does not exist")
  return path


def _folder() -> pathlib.Path:
  return built_in_folder() / "sweeps"
