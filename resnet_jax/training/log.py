"""What a run tells while it trains: to files, to people, to services. The first process tells."""

import contextlib
import pathlib

from resnet_jax.processes import is_first
from resnet_jax.run.config import to_json
from resnet_jax.run.records import Records
from resnet_jax.run.wandb import WandbRecords
from resnet_jax.training.build import Run
from resnet_jax.training.progress import Progress

Values = dict[str, float]


class Log:
  """Tells everyone who listens; in all but the first of several processes, nobody does."""

  def __init__(self, run: Run, workdir: pathlib.Path, step: int):
    """Opens the files of a run that is about to go on after `step` steps."""
    self._stack = contextlib.ExitStack()
    self._records: list[Records | WandbRecords] = []
    self._progress: Progress | None = None
    if not is_first():
      return
    with contextlib.ExitStack() as stack:  # What is open is closed if the next cannot be opened.
      records = Records(workdir, step)
      stack.callback(records.close)
      self._records.append(records)
      if project := run.config.wandb_project:
        service = WandbRecords(workdir, project, to_json(run.config))
        stack.callback(service.close)
        self._records.append(service)
      self._progress = Progress(run.steps, step, run.config.batch_size)
      stack.callback(self._progress.close)
      self._stack = stack.pop_all()

  def advance(self) -> None:
    """One step more."""
    if self._progress:
      self._progress.advance()

  def say(self, line: str) -> None:
    """A line for people."""
    if self._progress:
      self._progress.say(line)

  def train(self, step: int, values: Values) -> None:
    """The training metrics since the last record of them."""
    self._write(step, "train", values)
    if self._progress:
      self._progress.train(step, values)

  def evaluation(self, step: int, split: str, values: Values) -> None:
    """What a split's metrics are after `step` steps."""
    self._write(step, split, values)
    if self._progress:
      self._progress.evaluation(step, split, values)

  def sync(self) -> None:
    """Returns once the records are on disk: a checkpoint promises those before it."""
    for records in self._records:
      records.sync()

  def close(self) -> None:
    """Closes the files."""
    self._stack.close()

  def _write(self, step: int, split: str, values: Values) -> None:
    for records in self._records:
      records.write(step, split, **values)
