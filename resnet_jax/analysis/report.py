"""The report of runs: curves.png, a table (runs.csv), and one page that shows both (index.html)."""

import base64
import csv
import dataclasses
import html
import io
import json
import pathlib
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resnet_jax.analysis.curves import (
  RecordedRun,
  differing_fields,
  draw_curves,
  format_value,
  read_runs,
  render_png,
  run_labels,
)
from resnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Summary:
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
class _Column:
  """How a field of a summary is shown.

  Attributes:
    field: Its name in `_Summary`.
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


_COLUMNS = (
  _Column("run", "run", "run", printed=True),
  _Column("workdir", "directory", "workdir"),
  _Column("model", "model", "model"),
  _Column("dataset", "data set", "dataset"),
  _Column("steps", "steps", "steps", "{:,}".format, printed=True),
  _Column("batch_size", "batch size", "batch_size"),
  _Column("seed", "seed", "seed"),
  _Column("train_loss", "train loss", "train_loss", "{:.4g}".format, printed=True),
  _Column("train_error", "train error", "train_error_percent", _percent, printed=True),
  _Column(
    "validation_error", "validation error", "validation_error_percent", _percent, printed=True
  ),
  _Column("best_validation_error", "best", "best_validation_error_percent", _percent, printed=True),
  _Column("best_validation_step", "at step", "best_validation_step", "{:,}".format, printed=True),
  _Column("test_error", "test error", "test_error_percent", _percent, printed=True),
  _Column("images_per_second", "images/s", "images_per_second_median", _speed, printed=True),
  _Column("devices", "devices", "devices"),
  _Column("commit", "commit", "commit"),
)

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
img { max-width: 100%; height: auto; }
figure { margin: 0; }
figcaption, .note { color: #555; max-width: 45rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; }
tbody tr { border-bottom: 1px solid #ddd; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; background: #f4f4f4; padding: 0.7rem; }
"""

_CAPTION = """\
Top-1 error, loss and learning rate against iterations. Train: means over the steps since the point
before, of images as augmented and weights as they change. Validation: the whole split at that step.
The error's axis starts at 0 and shows the second half of every run whole. Lines break where a value
is not finite; one grey learning rate stands for all runs."""

_NOTE = """\
Train loss, train error and validation error are the last recorded; “best” is the lowest validation
error of all evaluations (the last of equals), which flatters a run as a choice made on that split
does; images/s is the median over the training records."""


def write_report(workdirs: Sequence[pathlib.Path], output: pathlib.Path) -> str:
  """Writes curves.png, runs.csv and index.html, which holds the picture itself.

  Args:
    workdirs: The directories of the runs, in the order in which they are shown.
    output: The directory to write to, made if it does not exist; what an earlier report wrote
      there is replaced, file by file as a whole.

  Returns:
    A table of the runs and where the page lies, as text for a terminal.

  Raises:
    UserError: A directory holds no run or one without records, or `output` cannot be written.
  """
  runs = read_runs(workdirs)
  labels = run_labels(runs)
  summaries = [_summarize(run, label) for run, label in zip(runs, labels, strict=True)]
  picture = render_png(draw_curves(runs))
  command = shlex.join(["resnet-jax", "report", *map(str, workdirs), "--output", str(output)])
  page = _page(summaries, _differences(runs, labels), picture, command)
  try:
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "curves.png", picture)
    _write(output / "runs.csv", _csv(summaries).encode())
    _write(output / "index.html", page.encode())
  except OSError as error:
    raise UserError(
      f"the report cannot be written to {output} ({error.strerror}): choose another --output"
    ) from None
  printed = [column for column in _shown(summaries) if column.printed]
  table = _aligned(printed, summaries)
  return f"{table}\n\nPage: {output / 'index.html'} (with curves.png and runs.csv)"


def _summarize(run: RecordedRun, label: str) -> _Summary:
  environments = _environments(run.workdir)
  steps, errors = run.error("validation")
  finite = np.isfinite(errors)
  steps, errors = steps[finite], errors[finite]
  # The last of equals, as `evaluate --checkpoint best` takes it.
  best = len(errors) - 1 - int(np.argmin(errors[::-1])) if len(errors) else None
  _, speeds = run.series("train", "images_per_second")
  return _Summary(
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


def _shown(summaries: Sequence[_Summary]) -> list[_Column]:
  """The columns in which any run has a value."""
  return [c for c in _COLUMNS if any(getattr(s, c.field) is not None for s in summaries)]


def _cell(summary: _Summary, column: _Column) -> str:
  value = getattr(summary, column.field)
  return "-" if value is None else column.show(value)


def _is_number(column: _Column, summaries: Sequence[_Summary]) -> bool:
  return not any(isinstance(getattr(summary, column.field), str) for summary in summaries)


def _aligned(columns: Sequence[_Column], summaries: Sequence[_Summary]) -> str:
  rows = [[column.header for column in columns]]
  rows += [[_cell(summary, column) for column in columns] for summary in summaries]
  widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
  right = [_is_number(column, summaries) for column in columns]
  lines = [
    "  ".join(
      cell.rjust(width) if number else cell.ljust(width)
      for cell, width, number in zip(row, widths, right, strict=True)
    )
    for row in rows
  ]
  return "\n".join(line.rstrip() for line in lines)


def _csv(summaries: Sequence[_Summary]) -> str:
  """Every column, whether or not a run has it; numbers unrounded but for the noise of floats."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow([column.name for column in _COLUMNS])
  for summary in summaries:
    values = [getattr(summary, column.field) for column in _COLUMNS]
    writer.writerow([f"{v:.10g}" if isinstance(v, float) else v for v in values])
  return text.getvalue()


def _differences(runs: Sequence[RecordedRun], labels: Sequence[str]) -> str:
  """The fields in which configs differ, a row for each run, or for each field if they are more."""
  if len(runs) == 1:
    return ""
  fields = differing_fields(runs)
  if not fields:
    return "<p>The configs of these runs are the same in every field.</p>"
  table = [["run", *fields]]
  for run, label in zip(runs, labels, strict=True):
    table.append([label, *(format_value(run.field(field), field) for field in fields)])
  if len(fields) > len(runs):
    table = [list(column) for column in zip(*table, strict=True)]
    table[0][0] = "field"
  rows = _html_table(table[0], table[1:], [False] * len(table[0]))
  return f"<h2>Fields in which the configs differ</h2>\n{rows}"


def _page(summaries: Sequence[_Summary], differences: str, picture: bytes, command: str) -> str:
  names = "; ".join(summary.run for summary in summaries)
  title = names if len(summaries) <= 3 else f"{len(summaries)} runs"
  columns = _shown(summaries)
  numbers = [_is_number(column, summaries) for column in columns]
  rows = [[_cell(summary, column) for column in columns] for summary in summaries]
  data = base64.b64encode(picture).decode()
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}: report</title>
<style>
{_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<figure>
<img src="data:image/png;base64,{data}" alt="{html.escape(f"Curves of {names}")}">
<figcaption>{_CAPTION}</figcaption>
</figure>
<h2>Runs</h2>
{_html_table([column.header for column in columns], rows, numbers)}
<p class="note">{_NOTE}</p>
{differences}
<h2>To write this again</h2>
<pre>{html.escape(command)}</pre>
</main>
</body>
</html>
"""


def _html_table(
  heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]
) -> str:
  """A table, of texts that need not be escaped yet, whose first cells name the rows."""
  classes = [' class="number"' if number else "" for number in numbers]
  head = "".join(
    f'<th scope="col"{kind}>{html.escape(text)}</th>'
    for text, kind in zip(heads, classes, strict=True)
  )
  body = []
  for first, *cells in rows:
    data = "".join(
      f"<td{kind}>{html.escape(text)}</td>" for text, kind in zip(cells, classes[1:], strict=True)
    )
    body.append(f'<tr><th scope="row">{html.escape(first)}</th>{data}</tr>')
  return "\n".join(
    [
      '<div class="wide"><table>',
      f"<thead><tr>{head}</tr></thead>",
      "<tbody>",
      *body,
      "</tbody>",
      "</table></div>",
    ]
  )


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file as a whole or not at all."""
  new = path.with_name(path.name + ".new")
  new.write_bytes(content)
  new.replace(path)
