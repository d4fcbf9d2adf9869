"""The report of runs: curves.png, a table (runs.csv), and one page that shows both (index.html)."""

import base64
import html
import pathlib
import shlex
from collections.abc import Sequence

from resnet_jax.analysis.curves import draw_curves, render_png
from resnet_jax.analysis.recorded_runs import (
  RecordedRun,
  differing_fields,
  format_value,
  read_runs,
  run_labels,
)
from resnet_jax.analysis.summary import (
  Summary,
  aligned_table,
  cell,
  csv_table,
  is_number,
  shown_columns,
  summarize_run,
)
from resnet_jax.errors import UserError
from resnet_jax.run.files import write_whole

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
  summaries = [summarize_run(run, label) for run, label in zip(runs, labels, strict=True)]
  picture = render_png(draw_curves(runs))
  command = shlex.join(["resnet-jax", "report", *map(str, workdirs), "--output", str(output)])
  page = _page(summaries, _differences(runs, labels), picture, command)
  try:
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "curves.png", picture)
    write_whole(output / "runs.csv", csv_table(summaries).encode())
    write_whole(output / "index.html", page.encode())
  except OSError as error:
    raise UserError(
      f"the report cannot be written to {output} ({error.strerror}): choose another --output"
    ) from None
  table = aligned_table(summaries)
  return f"{table}\n\nPage: {output / 'index.html'} (with curves.png and runs.csv)"


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


def _page(summaries: Sequence[Summary], differences: str, picture: bytes, command: str) -> str:
  names = "; ".join(summary.run for summary in summaries)
  title = names if len(summaries) <= 3 else f"{len(summaries)} runs"
  columns = shown_columns(summaries)
  numbers = [is_number(column, summaries) for column in columns]
  rows = [[cell(summary, column) for column in columns] for summary in summaries]
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
