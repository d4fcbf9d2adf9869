"""The numbers of a run over time: metrics.jsonl, and the same for TensorBoard."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from resnet_jax.run.events import Events
from resnet_jax.run.files import write_whole

_AVERAGE = "ema_"  # what the names of the values of average weights begin with


class Records:
  """Appends records of a run.

  metrics.jsonl has one object a line; the pair (step, split) stands there once. A run that resumes
  drops what was recorded after the checkpoint that it goes on from, and records it anew.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    """Opens the records of a run that is about to go on after `step` steps."""
    self._workdir = workdir
    with _refusals_named(workdir):
      _write(workdir, [record for record in read_records(workdir) if record["step"] <= step])
      # Unbuffered: what a full disk refuses does not wait here to be refused again at the end.
      self._file = (workdir / "metrics.jsonl").open("ab", buffering=0)
      self._events = Events(workdir, step)

  def write(self, step: int, split: str, **values: Any) -> None:
    """One record of a split after `step` steps; visible to readers at once.

    Raises:
      OSError: It could not be written.
    """
    record = {"step": step, "split": split} | values
    left = memoryview((json.dumps(record, allow_nan=False) + "\n").encode())
    with _refusals_named(self._workdir):
      while left:  # An almost full disk takes a part.
        left = left[self._file.write(left) :]
      self._events.write(step, split, values)

  def sync(self) -> None:
    """Returns once the records are on disk.

    Raises:
      OSError: They could not be written.
    """
    with _refusals_named(self._workdir):
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    self._events.close()


@contextlib.contextmanager
def _refusals_named(workdir: pathlib.Path) -> Iterator[None]:
  """Says of an error of the operating system what it kept us from."""
  try:
    yield
  except OSError as error:
    raise OSError(f"metrics cannot be written to {workdir} ({error.strerror})") from error


def record_once(
  workdir: pathlib.Path, step: int, split: str, average: bool = False, **values: Any
) -> None:
  """Adds a record of a finished or stopped run, in the place of an earlier one of the same pair.

  Args:
    workdir: The run's directory.
    step: The step.
    split: The split.
    average: Whether the values are those of the average weights: then "ema_" is put before their
      names. What an earlier record has of the other weights stays beside them.
    **values: The values by name.
  """
  if average:
    values = {f"{_AVERAGE}{name}": value for name, value in values.items()}
  others: list[dict[str, Any]] = []
  kept: dict[str, Any] = {}
  for record in read_records(workdir):
    if (record["step"], record["split"]) == (step, split):
      kept = {
        name: value for name, value in record.items() if name.startswith(_AVERAGE) is not average
      }
    else:
      others.append(record)
  _write(workdir, [*others, {"step": step, "split": split} | kept | values])


def read_records(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The records of a run in order; an incomplete last line, of a killed process, is left out."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return
  for line in path.read_text(errors="replace").splitlines():
    try:
      record = json.loads(line)
    except ValueError:
      continue
    match record:
      case {"step": int(), "split": str()}:
        yield record


def _write(workdir: pathlib.Path, records: list[dict[str, Any]]) -> None:
  """Replaces metrics.jsonl as a whole."""
  lines = "".join(json.dumps(record) + "\n" for record in records)
  write_whole(workdir / "metrics.jsonl", lines.encode())
