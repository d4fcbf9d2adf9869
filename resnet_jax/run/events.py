"""The numbers of a run as events for TensorBoard."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

# Where PyTorch and boto3 are installed, tensorboardX imports them for writers that are not used
# here, which takes seconds. Python does not import a module whose entry is None.
_hidden = [name for name in ("torch", "boto3") if name not in sys.modules]
for _name in _hidden:
  sys.modules[_name] = None  # type: ignore[assignment]
try:
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  from tensorboardX.summary import scalar
finally:
  for _name in _hidden:
    del sys.modules[_name]


class Events:
  """Appends events to a file of this start's own.

  They are written at once. tensorboardX's `SummaryWriter` leaves that to a thread; where the disk
  is full the thread dies, and the next events wait for it for ever.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    """Begins a file; TensorBoard hides what earlier ones say of the steps after `step`."""
    # A suffix of its own, or a start in the same second overwrites the last one's file.
    self._writer = EventsWriter(str(workdir / "events"), f".{time.time_ns()}")
    self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
    self._writer.flush()

  def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
    """The values of a split after `step` steps; visible to readers at once."""
    for name, value in values.items():
      self._add(step=step, summary=scalar(f"{split}/{name}", value))
    self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    # Everything is on disk already, but for what a full one has refused: that was raised then.
    with contextlib.suppress(OSError):
      self._writer.close()

  def _add(self, **fields: Any) -> None:
    self._writer.write_event(Event(wall_time=time.time(), **fields))
