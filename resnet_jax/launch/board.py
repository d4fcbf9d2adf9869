"""What a person sees of a sweep: one live table on a terminal, plain lines elsewhere."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from resnet_jax.analysis.recorded_runs import format_value
from resnet_jax.launch.job import Job
from resnet_jax.run.records import read_records

State = Literal["waiting", "held", "running", "saved", "finished", "pruned", "failed"]
_ENDED: tuple[State, ...] = ("finished", "pruned", "failed")
_LOOK_SECONDS = 1.0
_STYLES: Mapping[str, str] = {"running": "bold", "finished": "green", "failed": "red"}


def describe(job: Job) -> str:
  """What tells a run from the others: "learning_rate=0.1, seed=3"; its number if nothing does."""
  short = [path.rpartition(".")[2] for path in job.shown]
  parts = []
  for (path, value), name in zip(job.shown.items(), short, strict=True):
    text = format_value(value, path)
    bare = path in ("config", "model.name")
    parts.append(text if bare else f"{name if short.count(name) == 1 else path}={text}")
  return ", ".join(parts) or job.name


def progress(workdir: pathlib.Path) -> tuple[int, float | None]:
  """Step of the newest record of a run, and its best validation error so far, in percent."""
  step, best = 0, None
  for record in read_records(workdir):
    step = max(step, record["step"])
    if record["split"] == "validation" and isinstance(record.get("accuracy"), int | float):
      error = 100 * (1 - record["accuracy"])
      best = error if best is None else min(best, error)
  return step, best


@dataclasses.dataclass
class _Row:
  """A run as it is shown."""

  job: Job
  state: State = "waiting"
  note: str = ""
  step: int = 0
  best: float | None = None
  # When the attempt under way was first seen to have recorded, and what: its speed follows.
  since: tuple[float, int] | None = None
  begun: float = 0.0

  def look(self) -> None:
    """Reads what the run has recorded by now."""
    self.step, self.best = progress(self.job.workdir)
    if self.state == "running" and self.since is None and self.step:
      self.since = time.monotonic(), self.step

  def left(self) -> str:
    """Time that the rest takes at the speed so far, as text; empty while nobody knows."""
    if self.state != "running" or self.since is None or self.job.steps is None:
      return ""
    begun, first = self.since
    speed = (self.step - first) / max(time.monotonic() - begun, 1e-9)
    return str(tqdm.format_interval((self.job.steps - self.step) / speed)) if speed else ""


class Board:
  """The state of every run, shown; within `with`."""

  def __init__(self, jobs: Sequence[Job] = (), console: Console | None = None):
    """Shows nothing yet.

    Args:
      jobs: The runs that are known.
      console: Where to; standard output unless given.
    """
    self._console = console or Console(highlight=False)
    self._rows = {job.name: _Row(job) for job in jobs}
    self._live: Live | None = None
    self._looked, self._grows = 0.0, False

  def __enter__(self) -> "Board":
    for row in self._rows.values():
      row.look()
    if self._console.is_terminal and not self._console.is_dumb_terminal:
      self._live = Live(self._table(), console=self._console, auto_refresh=False)
      self._live.start()
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if self._live:
      self._live.update(self._table(), refresh=True)
      self._live.stop()

  def add(self, job: Job) -> None:
    """A further run is known."""
    self._grows = True
    self._rows[job.name] = _Row(job)
    self._rows[job.name].look()

  def set(self, job: Job, state: State, note: str = "") -> None:
    """A run is in another state, or in the same for another reason."""
    row = self._rows[job.name]
    if (row.state, row.note) == (state, note):
      return
    if state == "running":
      row.begun, row.since = time.monotonic(), None
    row.state, row.note = state, note
    row.look()
    if self._live:
      self.refresh(now=True)
    else:
      self._console.print(Text(self._line(row)), soft_wrap=True)

  def refresh(self, now: bool = False) -> None:
    """Shows what has changed, about once a second however often it is called."""
    if not self._live or not (now or time.monotonic() - self._looked > _LOOK_SECONDS):
      return
    for row in self._rows.values():
      if row.state in ("running", "held"):
        row.look()
    self._live.update(self._table(), refresh=True)
    self._looked = time.monotonic()

  def _line(self, row: _Row) -> str:
    parts = [f"run {row.job.name} ({describe(row.job)}): {row.state}"]
    if row.state in (*_ENDED, "saved") and row.begun:
      parts.append(f"after {tqdm.format_interval(time.monotonic() - row.begun)}")
    if row.state in ("finished", "saved") and row.best is not None:
      parts.append(f"best validation error {row.best:.2f} %")
    if row.note:
      parts.append(row.note)
    if row.state in _ENDED:
      parts.append(self._count())
    return ", ".join(parts)

  def _count(self) -> str:
    states = [row.state for row in self._rows.values()]
    others = [f", {n} {state}" for state in _ENDED[1:] if (n := states.count(state))]
    of = "" if self._grows else f" of {len(states)}"  # Nobody knows how many there will be.
    return f"{states.count('finished')}{of} finished{''.join(others)}"

  def _table(self) -> Table:
    table = Table(
      "run",
      "fields",
      "step",
      "best error",
      "state",
      "left",
      box=box.SIMPLE_HEAD,
      caption=self._count(),
    )
    for column in (2, 3, 5):
      table.columns[column].justify = "right"
      table.columns[column].no_wrap = True
    for row in self._visible():
      steps = f"{row.step:,} of {row.job.steps:,}" if row.job.steps else f"{row.step:,}"
      state = f"{row.state}: {row.note}" if row.note else row.state
      cells: list[str | Text] = [
        row.job.name,
        describe(row.job),
        steps,
        "" if row.best is None else f"{row.best:.2f} %",
        Text(state, style=_STYLES.get(row.state, "")),
        row.left(),
      ]
      table.add_row(*(c if isinstance(c, Text) else Text(c) for c in cells))
    return table

  def _visible(self) -> list[_Row]:
    """All runs, or where the terminal is too low those that something happens to."""
    rows = list(self._rows.values())
    if len(rows) <= self._console.height - 6:
      return rows
    return [row for row in rows if row.state not in ("waiting", "finished")]
