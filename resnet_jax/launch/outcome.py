"""What came of a sweep: its runs, the best first, as a table, summary.csv and summary.png."""

import dataclasses
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from resnet_jax.analysis.curves import render_png
from resnet_jax.analysis.recorded_runs import format_value, read_runs
from resnet_jax.analysis.summary import (
  COLUMNS,
  Summary,
  align,
  cell,
  csv_text,
  is_number,
  shown_columns,
  summarize_run,
)
from resnet_jax.analysis.swept import draw_swept
from resnet_jax.errors import UserError
from resnet_jax.launch.job import Job
from resnet_jax.launch.log import LOG
from resnet_jax.run.files import write_whole

# What runs are sorted by: the first that any of them has. Errors, in percent.
_NUMBERS = {
  "best_validation_error": "best validation error (%)",
  "test_error": "test error (%)",
  "train_error": "train error (%)",
}


@dataclasses.dataclass(frozen=True)
class _Row:
  """A run and what came of it.

  Attributes:
    job: The run.
    state: finished, pruned, failed, unfinished or not begun; "" where nobody knows how long it is.
    note: What it last said, if it failed.
    summary: What it recorded; None if nothing.
  """

  job: Job
  state: str
  note: str
  summary: Summary | None

  def number(self, field: str) -> float:
    """What it is sorted by; infinite if it has none."""
    value = getattr(self.summary, field, None)
    return math.inf if value is None else value


def write_outcome(
  directory: pathlib.Path,
  jobs: Sequence[Job],
  failures: Mapping[str, str],
  pruned: Collection[str] = (),
) -> str:
  """Writes summary.csv, and summary.png if anything was recorded, into a sweep's directory.

  Args:
    directory: The sweep's directory.
    jobs: All of its runs.
    failures: What those that failed last said, by name.
    pruned: Names of those that were ended early, for good.

  Returns:
    A table of the runs, the best first, and what failed, as text for a terminal.

  Raises:
    OSError: The files cannot be written.
  """
  rows = [_row(job, failures, pruned) for job in jobs]
  field = next((f for f in _NUMBERS if any(math.isfinite(r.number(f)) for r in rows)), None)
  written = ["summary.csv"]
  if field:
    rows.sort(key=lambda row: row.number(field))
  fields = list(dict.fromkeys(name for job in jobs for name in job.shown))
  write_whole(directory / "summary.csv", _csv(rows, fields).encode())
  if field and fields:
    values = {name: [row.job.shown.get(name) for row in rows] for name in fields}
    picture = draw_swept(values, [row.number(field) for row in rows], _NUMBERS[field])
    write_whole(directory / "summary.png", render_png(picture))
    written.append("summary.png")
  places = " and ".join(str(directory / name) for name in written)
  lines = [_table(rows, fields), "", f"Summary: {places}"]
  for row in rows:
    if row.note:
      log = row.job.workdir / LOG  # of those that ran here
      more = f" (all of it: {log})" if log.exists() else ""
      lines.append(f"run {row.job.name} failed with {row.note}{more}")
  return "\n".join(lines)


def _row(job: Job, failures: Mapping[str, str], pruned: Collection[str]) -> _Row:
  try:
    summary = summarize_run(read_runs([job.workdir])[0], job.name)
  except UserError:  # It has recorded nothing.
    summary = None
  if job.name in failures:
    state = "failed"
  elif job.name in pruned:
    state = "pruned"
  elif job.is_finished():
    state = "finished"
  elif summary is None:
    state = "not begun"
  else:
    state = "" if job.steps is None else "unfinished"
  return _Row(job, state, failures.get(job.name, ""), summary)


def _table(rows: Sequence[_Row], fields: Sequence[str]) -> str:
  summaries = [row.summary for row in rows if row.summary]
  columns = [c for c in shown_columns(summaries) if c.printed and c.field != "run"]
  short = [field.rpartition(".")[2] for field in fields]
  heads = [n if short.count(n) == 1 else f for f, n in zip(fields, short, strict=True)]
  table = [["run", *heads, "state", *(column.header for column in columns)]]
  for row in rows:
    values = [_text(row.job, field) for field in fields]
    cells = [cell(row.summary, column) if row.summary else "-" for column in columns]
    table.append([row.job.name, *values, row.state or "-", *cells])
  right = [False, *(_is_number(rows, field) for field in fields), False]
  return align(table, [*right, *(is_number(column, summaries) for column in columns)])


def _text(job: Job, field: str) -> str:
  return format_value(job.shown[field], field) if field in job.shown else "-"


def _is_number(rows: Sequence[_Row], field: str) -> bool:
  return all(isinstance(row.job.shown.get(field, 0), int | float) for row in rows)


def _csv(rows: Sequence[_Row], fields: Sequence[str]) -> str:
  columns = [c for c in COLUMNS if c.name not in ("run", *fields)]
  heads = ["run", *fields, "state", "failure", *(column.name for column in columns)]
  table: list[list[Any]] = [heads]
  for row in rows:
    values = [_text(row.job, field) if field in row.job.shown else None for field in fields]
    recorded = [getattr(row.summary, column.field, None) for column in columns]
    table.append([row.job.name, *values, row.state, row.note, *recorded])
  return csv_text(table)
