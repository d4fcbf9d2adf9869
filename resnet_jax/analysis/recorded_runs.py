"""What runs recorded, in what they differ, and what to call them."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.run.config import differences
from resnet_jax.run.records import read_records
from resnet_jax.training.config import CHANGEABLE

_LONGEST_LABEL, _MOST_FIELDS = 40, 3


@dataclasses.dataclass(frozen=True)
class RecordedRun:
  """What a run left in its directory.

  Attributes:
    workdir: The directory, as it was given.
    config: The content of config.json, of whatever version of this package.
    records: The lines of metrics.jsonl; at least one.
  """

  workdir: pathlib.Path
  config: Mapping[str, Any]
  records: Sequence[Mapping[str, Any]]

  def field(self, path: str) -> Any:
    """The config's value at a dotted path; None where it has none."""
    value: Any = self.config
    for name in path.split("."):
      value = value.get(name) if isinstance(value, dict) else None
    return value

  def series(self, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, float64 (N,), of the records of a split that have such a value."""
    pairs = [
      (record["step"], record[name])
      for record in self.records
      if record["split"] == split and isinstance(record.get(name), int | float)
    ]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, values

  def error(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and top-1 error in percent, float64 (N,), of a split."""
    steps, accuracy = self.series(split, "accuracy")
    return steps, 100 * (1 - accuracy)


def read_runs(workdirs: Sequence[pathlib.Path]) -> list[RecordedRun]:
  """The runs in some directories; one that is given twice is read once.

  Raises:
    UserError: One of them is not the directory of a run, or has recorded nothing yet.
  """
  return [_read_run(w) for w in {path.resolve(): path for path in workdirs}.values()]


def differing_fields(runs: Sequence[RecordedRun]) -> list[str]:
  """The fields, by dotted path, in which the configs of the runs are not all the same."""
  first, *others = [run.config for run in runs]
  return list(dict.fromkeys(path for other in others for path in differences(first, other)))


def run_labels(runs: Sequence[RecordedRun]) -> list[str]:
  """A name for each run: what distinguishes it from the others, or else its directory's.

  Fields that a resumed run may change (how often it records, where the data lies) name it only
  where nothing else does.
  """
  differing = differing_fields(runs)
  telling = [path for path in differing if path not in CHANGEABLE]
  for fields in (telling, differing):
    labels = [_describe(run, fields) for run in runs]
    distinct = len(set(labels)) == len(runs) > 1
    if distinct and len(fields) <= _MOST_FIELDS and max(map(len, labels)) <= _LONGEST_LABEL:
      return labels
  names = [run.workdir.resolve().name for run in runs]
  return names if len(set(names)) == len(runs) else [str(run.workdir) for run in runs]


def format_value(value: Any, path: str) -> str:
  """A config's value at a path as a reader would write it."""
  if value is None:
    # A network's field that no config names is the catalog's, which is the paper's.
    return "default" if path.startswith("model.overrides.") else "none"
  if isinstance(value, bool | int | str):
    return str(value)
  if isinstance(value, float):
    return f"{value:.10g}"
  return ", ".join(format_value(item, path) for item in value) if value else "none"


def _read_run(workdir: pathlib.Path) -> RecordedRun:
  path = workdir / "config.json"
  try:
    config = json.loads(path.read_text())
  except OSError:
    raise UserError(f"{workdir} is not the directory of a run: it has no config.json") from None
  except ValueError as error:
    raise UserError(f"{path} is not valid JSON: {error}") from None
  if not isinstance(config, dict):
    raise UserError(f"{path} is not the config of a run: it holds no fields")
  records = list(read_records(workdir))
  if not records:
    raise UserError(
      f"run {workdir} has recorded nothing yet: train it until its first record "
      f"(log_every is {format_value(config.get('log_every'), 'log_every')}), or leave it out"
    )
  return RecordedRun(workdir, config, records)


def _describe(run: RecordedRun, fields: Sequence[str]) -> str:
  """The values of some fields, such as "plain20, seed=1"."""
  short = [path.rpartition(".")[2] for path in fields]
  parts = []
  for path, name in zip(fields, short, strict=True):
    value = format_value(run.field(path), path)
    if path in ("model.name", "data.dataset"):
      parts.append(value)
    else:
      parts.append(f"{name if short.count(name) == 1 else path}={value}")
  return ", ".join(parts)
