"""From a sweep file to its runs, everything checked before the first starts; what of it is on disk.

DIR/sweep.json       the file and, of each run, its overrides, command and full config
DIR/000, 001, …      a run's directory each
DIR/lock             held while a launcher runs
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from resnet_jax.errors import UserError
from resnet_jax.launch.job import Job
from resnet_jax.launch.resolving import Checker, named_fields, resolve, train_arguments
from resnet_jax.launch.sweep_file import Variation, read_sweep
from resnet_jax.run.config import differences, to_json
from resnet_jax.run.location import Location
from resnet_jax.run.workdir import check_claim, write_json
from resnet_jax.training.config import Config, changeable


class Sweep:
  """The runs of a sweep file in a directory.

  Attributes:
    directory: The sweep's directory, or its copy here.
    jobs: Its runs, in the order of the file.
  """

  def __init__(
    self, file: str, location: Location, arguments: Sequence[str] = (), needs_data: bool = True
  ):
    """Resolves and checks every run; writes nothing.

    Args:
      file: A sweep file, or the name of a built-in sweep.
      location: The sweep's directory, as it is now.
      arguments: `--config.FIELD=VALUE` arguments for every run, after those of the file.
      needs_data: Whether the runs are to be trained here. Else what depends on a data set that is
        not here is not looked at.

    Raises:
      UserError: A run has a mistake, which the message names; or the directory holds another sweep.
    """
    self._location, self._file = location, file
    self.directory = directory = location.path
    variations = read_sweep(file)
    varied = {name for variation in variations for name in variation.overrides}
    for name in named_fields(arguments) & varied:
      raise UserError(f"--config.{name}: sweep() of {file} gives this field; change it there")
    self._configs: list[Config] = []
    self.jobs: list[Job] = []
    checker = Checker(needs_data)
    constant = _constants(variations)
    shows = sys.stderr.isatty()
    for index, variation in enumerate(tqdm(variations, "checking", disable=not shows, leave=False)):
      name = f"{index:03d}"
      where = f"{file}: run {index + 1} of {len(variations)} ({name})"
      try:
        config = resolve(variation, arguments)
        run = checker.build(config)
        check_claim(directory / name, config, changeable(config))
      except UserError as error:
        raise UserError(f"{where}: {error}") from None
      workdir = directory / name
      command = train_arguments(variation, location.child(name), arguments)
      shown = {field: v for field, v in variation.shown.items() if field not in constant}
      self._configs.append(config)
      steps, works_in = run.steps if run else None, location.child_path(name)
      self.jobs.append(Job(name, workdir, shown, command, steps, works_in))
    self._shown = [variation.shown for variation in variations]
    self._require_same()

  def claim(self) -> None:
    """Records the sweep in its directory, which this process holds or nobody writes to.

    Raises:
      UserError: It holds another sweep by now, or cannot be written.
    """
    self._require_same()
    runs = [
      {"run": job.name, "overrides": shown, "arguments": job.arguments, "config": config}
      for job, shown, config in zip(self.jobs, self._shown, self._configs, strict=True)
    ]
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      write_json(self.directory / "sweep.json", to_json({"file": self._file, "runs": runs}))
    except OSError as error:
      raise UserError(f"workdir {self._location} cannot be used: {error.strerror}") from None

  def _require_same(self) -> None:
    """Raises a UserError if the directory holds another sweep than this one or its beginning."""
    if self.directory.exists() and not self.directory.is_dir():
      raise UserError(f"workdir {self._location} is not a directory: choose another one")
    if (self.directory / "config.json").exists():
      raise UserError(
        f"workdir {self._location} is the directory of a run, not of a sweep: choose another one"
      )
    if (self.directory / "study.log").exists():
      raise UserError(f"workdir {self._location} holds a search: choose another one, or --trials")
    stored = _stored_configs(self.directory)
    if len(stored) > len(self._configs):
      raise UserError(
        f"workdir {self._location} holds a sweep of {len(stored)} runs, and {self._file} has "
        f"{len(self._configs)}: choose another --workdir, or give the file as it was; runs can be "
        "added at its end"
      )
    for job, old, config in zip(self.jobs, stored, self._configs, strict=False):
      free = changeable(config)
      for field, (a, b) in differences(old, config).items():
        if field not in free:
          raise UserError(
            f"workdir {self._location} holds another sweep: of its run {job.name} {field} is "
            f"{a!r}, not {b!r}. Choose another --workdir (and if the file draws at random, seed it)"
          )


def _stored_configs(directory: pathlib.Path) -> list[Any]:
  path = directory / "sweep.json"
  try:
    values = json.loads(path.read_text())
    return [run["config"] for run in values["runs"]]
  except FileNotFoundError:
    return []
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  except (ValueError, KeyError, TypeError):
    raise UserError(
      f"{path} is not that of a sweep: choose another --workdir, or remove the file"
    ) from None


def _constants(variations: Sequence[Variation]) -> set[str]:
  """The fields that have one value in all runs: they tell none from another."""
  first: Mapping[str, Any] = variations[0].shown
  return {
    name
    for name, value in first.items()
    if all(name in v.shown and _same(v.shown[name], value) for v in variations)
  }


def _same(a: Any, b: Any) -> bool:
  return type(a) is type(b) and bool(a == b)
