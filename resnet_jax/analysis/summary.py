"""The table of runs: a row for each, as text for a terminal and as CSV."""

import csv
import dataclasses
import io
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resnet_jax.analysis.recorded_runs import RecordedRun


@dataclasses.dataclass(frozen=True)
class Summary:
  """A row of the table; None where a run has no such number. Errors are top-1, in percent."""

  run: str
  workdir: str
  model: str | None
  dataset: str | None
  steps: int
  batch_size: int | None
  seed: int | None
  train_loss: float | None
  train_error: float | None
  validation_error: float | None
  best_validation_error: float | None
  best_validation_step: int | None
  test_error: float | None
  images_per_second: float | None
  devices: str | None
  commit: str | None


def _percent(value: float) -> str:
  return f"{value:.2f} %"


def _speed(value: float) -> str:
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclasses.dataclass(frozen=True)
class Column:
  """How a field of a summary is shown.

  Attributes:
    field: Its name in `Summary`.
    header: Its name to readers; the file for programs has `name`.
    name: With the unit.
    show: Formats a value.
    printed: Whether the terminal, which is narrow, shows it as well.
  """

  field: str
  header: str
  name: str
  show: Callable[[Any], str] = str
  printed: bool = False


COLUMNS = (
  Column("run", "run", "run", printed=True),
  Column("workdir", "directory", "workdir"),
  Column("model", "model", "model"),
  Column("dataset", "data set", "dataset"),
  Column("steps", "steps", "steps", "{:,}".format, printed=True),
  Column("batch_size", "batch size", "batch_size"),
  Column("seed", "seed", "seed"),
  Column("train_loss", "train loss", "train_loss", "{:.4g}".format, printed=True),
  Column("train_error", "train error", "train_error_percent", _percent, printed=True),
  Column(
    "validation_error", "validation error", "validation_error_percent", _percent, printed=True
  ),
  Column("best_validation_error", "best", "best_validation_error_percent", _percent, printed=True),
  Column("best_validation_step", "at step", "best_validation_step", "{:,}".format, printed=True),
  Column("test_error", "test error", "test_error_percent", _percent, printed=True),
  Column("images_per_second", "images/s", "images_per_second_median", _speed, printed=True),
  Column("devices", "devices", "devices"),
  Column("commit", "commit", "commit"),
)


def summarize_run(run: RecordedRun, label: str) -> Summary:
  """The row of a run."""
  environments = _environments(run.workdir)
  steps, errors = run.error("validation")
  finite = np.isfinite(errors)
  steps, errors = steps[finite], errors[finite]
  # The last of equals, as `evaluate --checkpoint best` takes it.
  best = len(errors) - 1 - int(np.argmin(errors[::-1])) if len(errors) else None
  _, speeds = run.series("train", "images_per_second")
  return Summary(
    run=label,
    workdir=str(run.workdir),
    model=run.field("model.name"),
    dataset=run.field("data.dataset"),
    steps=max(record["step"] for record in run.records),
    batch_size=run.field("batch_size"),
    seed=run.field("seed"),
    train_loss=_last(run.series("train", "loss")[1]),
    train_error=_last(run.error("train")[1]),
    validation_error=_last(run.error("validation")[1]),
    best_validation_error=None if best is None else float(errors[best]),
    best_validation_step=None if best is None else int(steps[best]),
    test_error=_last(run.error("test")[1]),
    images_per_second=float(np.median(speeds)) if len(speeds) else None,
    devices=_distinct([_devices(environment) for environment in environments]),
    commit=_distinct([_commit(environment) for environment in environments]),
  )


def _last(values: np.ndarray) -> float | None:
  return float(values[-1]) if len(values) else None


def _environments(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """What each start of a run was made on, first to last; empty where nothing recorded it."""
  try:
    last = json.loads((workdir / "environment.json").read_text())
    return [*last.get("earlier", []), last]
  except (OSError, ValueError, AttributeError):
    return []


def _devices(environment: dict[str, Any]) -> str:
  counts = Counter(environment.get("devices") or [])
  return " + ".join(f"{count} x {kind}" for kind, count in counts.items())


def _commit(environment: dict[str, Any]) -> str:
  commit = environment.get("commit") or ""
  return f"{commit[:10]} + changes" if commit and environment.get("dirty") else commit[:10]


def _distinct(texts: Sequence[str]) -> str | None:
  """All that a run, which may have been resumed elsewhere, had; in order, each once."""
  return ", ".join(dict.fromkeys(text for text in texts if text)) or None


def shown_columns(summaries: Sequence[Summary]) -> list[Column]:
  """The columns in which any run has a value."""
  return [c for c in COLUMNS if any(getattr(s, c.field) is not None for s in summaries)]


def cell(summary: Summary, column: Column) -> str:
  """A value as a reader sees it."""
  value = getattr(summary, column.field)
  return "-" if value is None else column.show(value)


def is_number(column: Column, summaries: Sequence[Summary]) -> bool:
  """Whether a column holds no text."""
  return not any(isinstance(getattr(summary, column.field), str) for summary in summaries)


def aligned_table(summaries: Sequence[Summary]) -> str:
  """The columns for a terminal, as text."""
  columns = [column for column in shown_columns(summaries) if column.printed]
  rows = [[column.header for column in columns]]
  rows += [[cell(summary, column) for column in columns] for summary in summaries]
  return align(rows, [is_number(column, summaries) for column in columns])


def align(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
  """Rows of cells, all of the same number, as text in columns; `right` says which end there."""
  widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
  lines = [
    "  ".join(
      text.rjust(width) if number else text.ljust(width)
      for text, width, number in zip(row, widths, right, strict=True)
    )
    for row in rows
  ]
  return "\n".join(line.rstrip() for line in lines)


def csv_table(summaries: Sequence[Summary]) -> str:
  """Every column, whether or not a run has it; numbers unrounded but for the noise of floats."""
  rows = [[getattr(summary, column.field) for column in COLUMNS] for summary in summaries]
  return csv_text([[column.name for column in COLUMNS], *rows])


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
  """Rows of values as CSV; None is empty."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  for values in rows:
    writer.writerow([f"{v:.10g}" if isinstance(v, float) else v for v in values])
  return text.getvalue()
