"""One process at a time writes to a run's directory, on this host or another.

The operating system's lock decides between processes of one host, and dies with its holder. Some
network file systems do not carry it to other hosts. So the holder also writes into the file who it
is, and every few seconds a new time: a heartbeat, which another host can watch.
"""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.run.repeated import repeated

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


@contextlib.contextmanager
def locked(
  workdir: pathlib.Path, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
) -> Iterator[None]:
  """Holds a run's directory against a second process; made if it does not exist.

  A holder on this host that was killed holds nothing. One on another host does as long as its heart
  beats: where that is not clear at once, this waits and watches.

  Args:
    workdir: The run's directory.
    beat_seconds: Time between two beats of the holder.
    stale_seconds: A holder on another host that has not beaten for so long is dead.

  Raises:
    UserError: Another process holds it, or the directory cannot be made.
  """
  path = workdir / "lock"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    path.touch()
    file = path.open("r+b", buffering=0)
  except OSError as error:
    raise UserError(f"workdir {workdir} cannot be used: {error.strerror}") from None
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise in_use(workdir, holder_in(path.read_bytes())) from None
    except OSError as error:
      raise UserError(f"workdir {workdir} cannot be locked: {error.strerror}") from None
    # The lock of a holder on this host would have been refused to us: it is dead.
    host = socket.gethostname()
    outlive(path.read_bytes, workdir, stale_seconds, lambda holder: holder["host"] == host)
    with _beating(file, beat_seconds):
      yield


def holder_of(workdir: pathlib.Path, stale_seconds: float = STALE_SECONDS) -> str | None:
  """Who holds a run's directory now, in words; None if nobody does.

  The lock is touched only where a file names somebody: a process that begins is not disturbed.
  """
  path = workdir / "lock"
  with contextlib.suppress(OSError):
    holder = holder_in(path.read_bytes())
    if holder is None:
      return None
    if holder["host"] != socket.gethostname():
      return words_of(holder) if time.time() - holder["beat"] < stale_seconds else None
    with path.open("rb") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return words_of(holder)
  return None


def outlive(
  read: Callable[[], bytes],
  place: object,
  stale_seconds: float,
  is_dead: Callable[[dict[str, Any]], bool],
) -> None:
  """Returns once no process elsewhere holds a lock.

  Args:
    read: Gives what is written in the lock now.
    place: What is locked, for messages.
    stale_seconds: As in `locked`.
    is_dead: Whether a holder is known to be dead, however new its beat.

  Raises:
    UserError: One does.
  """
  content = read()
  holder = holder_in(content)
  if holder is None or is_dead(holder):
    return
  # A time to come is that of a clock that goes before ours: it says nothing.
  if time.time() - holder["beat"] < stale_seconds:
    _say(f"waiting to see whether {words_of(holder)} still holds {place}")
    end = time.monotonic() + stale_seconds
    while time.monotonic() < end:
      time.sleep(stale_seconds / 60)
      if read() != content:  # opened anew, or a network file system shows what it knew
        raise in_use(place, holder_in(read()) or holder)
  _say(f"{words_of(holder)} held {place} and is gone: taken over")


@contextlib.contextmanager
def _beating(file: io.FileIO, beat_seconds: float) -> Iterator[None]:
  """Keeps a heartbeat in the file; at the end the file is empty."""
  holder = this_process()
  write = _writer(file, holder)
  file.truncate(0)
  write()

  def beat() -> None:
    # A beat that a full or slow disk swallows is no reason to end a run.
    with contextlib.suppress(OSError):
      other = holder_in(os.pread(file.fileno(), 4096, 0))
      if other and any(other[name] != value for name, value in holder.items()):
        _say(f"{words_of(other)} has taken over the workdir from this process, which was silent")
        os._exit(1)  # At once: nothing more may be written there.
      write()

  try:
    with repeated(beat, beat_seconds):
      yield
  finally:
    file.truncate(0)


def _writer(file: io.FileIO, holder: dict[str, Any]) -> Callable[[], None]:
  """A function that writes the holder with the present time."""

  def write() -> None:
    # One call of the same length each time: a reader sees the beat before or this one.
    text = json.dumps(holder | {"beat": round(time.time(), 3)})
    os.pwrite(file.fileno(), f"{text:<255}\n".encode(), 0)

  return write


def this_process() -> dict[str, Any]:
  """This process as a holder, but for its beat."""
  return {"process": os.getpid(), "host": socket.gethostname(), "started": int(time.time())}


def holder_in(content: bytes) -> dict[str, Any] | None:
  """Whom the file names; None if it is empty, or nothing that this version wrote."""
  try:
    match json.loads(content):
      case {"process": int(), "host": str(), "started": int(), "beat": int() | float()} as holder:
        return holder
  except ValueError:
    pass
  return None


def in_use(place: object, holder: dict[str, Any] | None) -> UserError:
  """What a second process is told."""
  return UserError(
    f"workdir {place} is in use by {words_of(holder) if holder else 'another process'}: wait for "
    "it, stop it, or choose another --workdir"
  )


def words_of(holder: dict[str, Any]) -> str:
  """A holder, for messages."""
  started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["started"]))
  return f"process {holder['process']} on {holder['host']} (since {started})"


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
