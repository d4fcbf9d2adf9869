"""The launcher that runs: some runs at a time, as child processes on this machine."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from resnet_jax.launch import child
from resnet_jax.launch.board import Board
from resnet_jax.launch.job import THIS, Ending, Job, Stream
from resnet_jax.launch.log import LOG, last_line
from resnet_jax.launch.slots import Slot
from resnet_jax.run.lock import holder_of

_PRE_EMPTED, _USER_ERROR = 75, 2
_POLL_SECONDS, _LOOK_SECONDS = 0.1, 1.0


class Local:
  """Runs each command as a child, in a process group of its own, its output in its directory.

  A run that was pre-empted (status 75) or failed is started again, and so goes on from its last
  checkpoint; one that ended with a mistake of the user's (status 2) is not. Runs whose last step is
  saved are not started.
  """

  def __init__(
    self,
    slots: Sequence[Slot] = (Slot(),),
    retries: int = 2,
    stops: Callable[[], int] = lambda: 0,
    program: Sequence[str] = THIS,
  ):
    """Starts nothing.

    Args:
      slots: What each of the runs that are under way at a time may use.
      retries: How often a run is started again.
      stops: How often this process has been told to stop. Each time is passed on to the children
        as SIGTERM, with which they save and end; the second time they do not save.
      program: What takes the arguments of a run.
    """
    self._slots, self._retries, self._stops = slots, retries, stops
    self._program = program

  def lines(self, jobs: Sequence[Job]) -> list[str]:
    """The commands that `launch` would start now; comments say how."""
    lines = [f"# {len(self._slots)} at a time"]
    for index, slot in enumerate(self._slots):
      if words := slot.words():
        lines.append(f"# place {index}: {words}")
    for job in jobs:
      if job.is_finished():
        lines.append(f"# run {job.name} is finished")
      else:
        lines.append(shlex.join([*self._program, *job.arguments]))
    return lines

  def launch(self, jobs: Sequence[Job]) -> Ending:
    """Runs all that is not finished; returns when all have ended, or all are saved."""
    with Board(jobs) as board:
      session = _Session(self._slots, self._retries, self._stops, self._program, board)
      return session.run(jobs)

  def follow(self, stream: Stream) -> Ending:
    """Runs what a stream gives, each when there is a place for it; returns as `launch` does."""
    with Board() as board:
      session = _Session(self._slots, self._retries, self._stops, self._program, board)
      return session.run((), stream)


class _Nothing:
  """No further runs, nothing to say of those that are known."""

  def next(self) -> None:
    return None

  def look(self, job: Job) -> str:
    del job
    return ""

  def ended(self, job: Job, failure: str) -> None:
    del job, failure


@dataclasses.dataclass
class _Attempt:
  """A child process."""

  job: Job
  slot: Slot
  process: subprocess.Popen[bytes]
  log: BinaryIO
  begin: int  # where its output begins in the log
  stopped: str = ""  # why it was, for good

  def end(self) -> str:
    """Closes what was open for it; gives what the log says last."""
    assert self.process.stdin
    self.process.stdin.close()
    self.log.close()
    return last_line(self.job.workdir / LOG, self.begin)


class _Session:
  """One call of `Local.launch` or `Local.follow`."""

  def __init__(
    self,
    slots: Sequence[Slot],
    retries: int,
    stops: Callable[[], int],
    program: Sequence[str],
    board: Board,
  ):
    self._free, self._retries, self._stops = list(slots), retries, stops
    self._program, self._board = program, board
    self._places = len(slots)
    self._stream: Stream = _Nothing()
    self._may_follow = False  # Whether the stream had a run when it was last asked.
    self._asked = self._looked = 0.0
    self._running: list[_Attempt] = []
    self._waiting: collections.deque[Job] = collections.deque()
    self._starts: collections.Counter[str] = collections.Counter()
    self._failures: dict[str, str] = {}
    self._passed_on = 0

  def run(self, jobs: Sequence[Job], stream: Stream | None = None) -> Ending:
    self._waiting.extend(jobs)
    if stream:
      self._stream, self._may_follow = stream, True
    with self._children_ended():
      while self._goes_on():
        self._pass_on_stops()
        if not self._stops():
          self._start_some()
        self._look()
        self._collect()
        self._board.refresh()
        time.sleep(_POLL_SECONDS)
    interrupted = bool(self._stops()) and bool(self._waiting or self._may_follow)
    return Ending(self._failures, interrupted)

  def _goes_on(self) -> bool:
    if self._stops():
      return bool(self._running)
    self._take_some()
    return bool(self._running or self._waiting)

  def _take_some(self) -> None:
    """Takes runs of the stream while there are places for them."""
    idle = not (self._running or self._waiting)
    if not (self._may_follow or idle or time.monotonic() - self._asked > _LOOK_SECONDS):
      return
    while len(self._running) + len(self._waiting) < self._places:
      self._asked = time.monotonic()
      following = self._stream.next()
      self._may_follow = following is not None
      if following is None:
        return
      job, mistake = following
      self._board.add(job)
      if mistake:
        self._give_up(job, mistake)
      else:
        self._waiting.append(job)

  def _start_some(self) -> None:
    """Starts runs while there are places; one that another process trains waits for that."""
    for _ in range(len(self._waiting)):
      job = self._waiting.popleft()
      if holder := holder_of(job.works_in or job.workdir):
        self._board.set(job, "held", f"waits for {holder}")
        self._waiting.append(job)
      elif job.is_finished():
        self._board.set(job, "finished", "" if self._starts[job.name] else "before")
        self._stream.ended(job, "")
      elif self._free:
        self._start(job)
      else:
        self._waiting.appendleft(job)
        return

  def _start(self, job: Job) -> None:
    slot = self._free.pop(0)
    command = [*self._program, *job.arguments]
    job.workdir.mkdir(parents=True, exist_ok=True)
    log = (job.workdir / LOG).open("a+b")
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    log.write(f"# {now}: {shlex.join(command)}\n".encode())
    log.flush()
    script = str(pathlib.Path(child.__file__))
    cores = ",".join(map(str, slot.cores))
    process = subprocess.Popen(
      [sys.executable, "-I", "-S", script, cores, *command],
      stdin=subprocess.PIPE,  # By whose end the child notices that of this process.
      stdout=log,
      stderr=subprocess.STDOUT,
      env=os.environ | slot.environment,
      process_group=0,  # Ctrl-C on the terminal is this process's, which passes it on.
    )
    self._starts[job.name] += 1
    self._running.append(_Attempt(job, slot, process, log, log.tell()))
    again = self._starts[job.name] - 1
    self._board.set(job, "running", f"start {again + 1} of {1 + self._retries}" if again else "")

  def _look(self) -> None:
    """Ends runs early that the stream has seen enough of."""
    if time.monotonic() - self._looked < _LOOK_SECONDS:
      return
    self._looked = time.monotonic()
    for attempt in self._running:
      if not attempt.stopped:
        attempt.stopped = self._stream.look(attempt.job)
        if attempt.stopped:
          _terminate([attempt])

  def _collect(self) -> None:
    for attempt in list(self._running):
      status = attempt.process.poll()
      if status is None:
        continue
      self._running.remove(attempt)
      self._free.append(attempt.slot)
      last = attempt.end()
      if attempt.stopped:
        self._board.set(attempt.job, "pruned", attempt.stopped)
      elif status == 0:
        self._board.set(attempt.job, "finished")
        self._stream.ended(attempt.job, "")
      elif self._stops() and status in (_PRE_EMPTED, -signal.SIGTERM):
        self._waiting.append(attempt.job)
        self._board.set(attempt.job, "saved", "" if status == _PRE_EMPTED else "at its last save")
      else:
        self._failed(attempt.job, status, last)

  def _failed(self, job: Job, status: int, last: str) -> None:
    what = f"ended by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    note = f"{what}: {last}" if last else what
    if status != _USER_ERROR and self._starts[job.name] <= self._retries:
      self._waiting.appendleft(job)
      self._board.set(job, "waiting", f"{note}; it is started again")
      return
    self._give_up(job, note)

  def _give_up(self, job: Job, note: str) -> None:
    self._failures[job.name] = note
    self._board.set(job, "failed", note)
    self._stream.ended(job, note)

  def _pass_on_stops(self) -> None:
    stops = self._stops()
    if stops > self._passed_on:
      self._passed_on = stops
      _terminate(self._running)

  @contextlib.contextmanager
  def _children_ended(self) -> Iterator[None]:
    """An error here ends the children too, saved."""
    try:
      yield
    except BaseException:
      if not self._passed_on:  # A second SIGTERM would not let them save.
        _terminate(self._running)
      for attempt in self._running:
        attempt.process.wait()
        attempt.end()
      raise


def _terminate(attempts: Iterable[_Attempt]) -> None:
  for attempt in attempts:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(attempt.process.pid, signal.SIGTERM)
