"""The launcher that submits: one Slurm job array, watched until nothing of it is in the queue."""

import hashlib
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from resnet_jax.errors import UserError
from resnet_jax.launch.board import Board, State
from resnet_jax.launch.job import THIS, Ending, Job
from resnet_jax.launch.log import LOG, last_line, last_remark
from resnet_jax.launch.slurm_queue import Task, find_tasks, require_slurm, submit
from resnet_jax.launch.slurm_script import batch_script, index_of, sbatch_command
from resnet_jax.run.files import write_whole
from resnet_jax.run.lock import holder_of

_SCRIPT = "slurm.sh"
# Slurm's controller serves a whole cluster: it is asked seldom.
_POLL_SECONDS = 10.0
_LOOK_SECONDS = 0.1
# Why a task waits that is as it should be.
_ORDINARY = ("None", "Priority", "Resources", "JobArrayTaskLimit")


class Slurm:
  """Submits the runs as one job array, and watches it.

  What is in the queue, Slurm knows: the array's name follows from the sweep's directory. So a
  watcher may die at any moment, and the next one submits nothing twice.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    parallel: int | None = None,
    retries: int = 2,
    processes: int = 1,
    options: Sequence[str] = (),
    detach: bool = False,
    stops: Callable[[], int] = lambda: 0,
    program: Sequence[str] = THIS,
    poll_seconds: float = _POLL_SECONDS,
  ):
    """Submits nothing.

    Args:
      directory: The sweep's directory, which all nodes see under the same path, as they do the
        program, its packages and the data.
      parallel: How many runs are under way at a time; None for as many as Slurm likes.
      retries: How often a run starts again that failed.
      processes: How many train a run together.
      options: Further ones of sbatch.
      detach: Whether `launch` returns once all is submitted.
      stops: How often this process has been told to stop watching.
      program: What takes the arguments of a run.
      poll_seconds: How often Slurm is asked.
    """
    self.directory = directory.resolve()
    self.detach, self.stops, self.poll_seconds = detach, stops, poll_seconds
    self._parallel, self._retries, self._processes = parallel, retries, processes
    self._options, self._program = options, program

  @property
  def name(self) -> str:
    """The name of the sweep's arrays: that of its directory, and eight letters for its path."""
    letters = hashlib.sha256(bytes(self.directory)).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.directory.name)}-{letters}"

  def lines(self, jobs: Sequence[Job]) -> list[str]:
    """What submits all that is not finished, and the script; the queue is not asked."""
    lines = [f"# run {job.name} is finished" for job in jobs if job.is_finished()]
    if left := [job for job in jobs if not job.is_finished()]:
      lines += [shlex.join(self._command(left)), f"# {_SCRIPT}:", *self._text(left).splitlines()]
    return lines

  def launch(self, jobs: Sequence[Job]) -> Ending:
    """Submits all that is neither finished nor in the queue; returns when all have ended.

    Raises:
      UserError: There is no Slurm here, or it refuses the array.
    """
    with Board(jobs) as board:
      return _Watch(self, board, jobs).run()

  def submit(self, jobs: Sequence[Job]) -> int:
    """Puts runs into the queue; gives the number of their array."""
    for job in jobs:  # Slurm makes the logs, not their folders.
      job.workdir.mkdir(parents=True, exist_ok=True)
    write_whole(self.directory / _SCRIPT, self._text(jobs).encode())
    return submit(self._command(jobs))

  def _text(self, jobs: Sequence[Job]) -> str:
    current = pathlib.Path.cwd()
    return batch_script(jobs, self._program, current, self._processes, self._retries)

  def _command(self, jobs: Sequence[Job]) -> list[str]:
    script = self.directory / _SCRIPT
    return sbatch_command(jobs, script, self.name, self._processes, self._parallel, self._options)


class _Watch:
  """One call of `Slurm.launch`."""

  def __init__(self, slurm: Slurm, board: Board, jobs: Sequence[Job]):
    self._slurm, self._board = slurm, board
    self._open = {job.name: job for job in jobs}
    self._arrays: dict[str, int] = {}  # By the name of each run that was in the queue in this call.
    self._begun: set[str] = set()
    self._failures: dict[str, str] = {}
    self._silent = False

  def run(self) -> Ending:
    tasks: Mapping[int, Task] = {}
    if not all(job.is_finished() for job in self._open.values()):
      require_slurm()
      tasks = find_tasks(self._slurm.name)
    while True:
      self._submit(self._look(tasks))
      if not self._open or self._slurm.detach:
        return Ending(self._failures)
      if not self._pause():
        self._tell()
        return Ending(self._failures, interrupted=True)
      tasks = self._ask(tasks)

  def _look(self, tasks: Mapping[int, Task]) -> list[Job]:
    """Shows what has become of each run; gives those that are to be submitted."""
    new = []
    for job in list(self._open.values()):
      task = tasks.get(index_of(job))
      if task and not task.has_ended():
        self._arrays[job.name] = task.array
        self._show(job, task)
      elif job.is_finished():
        self._end(job, "finished", "" if job.name in self._arrays else "before")
      elif job.name in self._arrays:
        state = task.state.lower() if task else "not in the queue"
        said = last_line(job.workdir / LOG)
        self._failures[job.name] = f"{state}: {said}" if said else state
        self._end(job, "failed", self._failures[job.name])
      elif holder := holder_of(job.workdir):
        self._board.set(job, "held", f"waits for {holder}")
      else:
        new.append(job)
    return new

  def _show(self, job: Job, task: Task) -> None:
    number = f"job {task.array}_{task.index}"
    if task.state != "PENDING":
      self._begun.add(job.name)
      self._board.set(job, "running", number)
      return
    reason = [] if task.reason in _ORDINARY else [task.reason]
    again = [last_remark(job.workdir / LOG)] if job.name in self._begun else []
    notes = [*again, *reason]
    self._board.set(job, "waiting", ", ".join([number, *notes]) if notes else "")

  def _end(self, job: Job, state: State, note: str) -> None:
    self._board.set(job, state, note)
    del self._open[job.name]

  def _submit(self, jobs: Sequence[Job]) -> None:
    if not jobs:
      return
    array = self._slurm.submit(jobs)
    self._arrays |= {job.name: array for job in jobs}
    print(f"job {array}: {len(jobs)} run{'s' if len(jobs) > 1 else ''} submitted", flush=True)

  def _ask(self, before: Mapping[int, Task]) -> Mapping[int, Task]:
    """The queue; as it was where Slurm does not answer, as while its controller starts again."""
    try:
      tasks = find_tasks(self._slurm.name)
    except UserError as error:
      if not self._silent:
        print(f"resnet-jax: {error}; asking again", file=sys.stderr, flush=True)
      self._silent = True
      return before
    self._silent = False
    return tasks

  def _pause(self) -> bool:
    """Waits until Slurm may be asked again; False at once when told to stop."""
    end = time.monotonic() + self._slurm.poll_seconds
    while time.monotonic() < end and not self._slurm.stops():
      self._board.refresh()
      time.sleep(_LOOK_SECONDS)
    return not self._slurm.stops()

  def _tell(self) -> None:
    arrays = sorted({self._arrays[name] for name in self._open if name in self._arrays})
    numbers = " ".join(map(str, arrays))
    if numbers:
      print(f"resnet-jax: job {numbers} goes on; scancel {numbers} ends it", file=sys.stderr)
