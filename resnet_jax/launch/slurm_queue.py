"""Slurm's commands as functions: what is in the queue, and putting an array into it."""

import dataclasses
import shutil
import subprocess
from collections.abc import Sequence

from resnet_jax.errors import UserError

_COMMAND_SECONDS = 120
_ENDED = (
  *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
  *("PREEMPTED", "REVOKED", "TIMEOUT"),
)


@dataclasses.dataclass(frozen=True)
class Task:
  """A task of a job array, as the queue has it.

  Attributes:
    array: The array's number.
    index: Which task of it.
    state: Slurm's word: PENDING, RUNNING, …
    reason: Slurm's word for why it does not run.
  """

  array: int
  index: int
  state: str
  reason: str

  def has_ended(self) -> bool:
    """Whether it is over; Slurm lists it a few minutes longer."""
    return self.state in _ENDED


def require_slurm() -> None:
  """Raises a UserError where Slurm's commands are missing."""
  absent = [name for name in ("sbatch", "squeue") if not shutil.which(name)]
  if absent:
    raise UserError(
      f"{' and '.join(absent)} not found: start the sweep on a login node of a Slurm cluster, or "
      "use --launcher local or commands; --dry-run works anywhere"
    )


def find_tasks(name: str) -> dict[int, Task]:
  """By index the newest task of all arrays with a name; one that has not ended before others.

  No accounting is asked (sacct): many clusters have none.

  Raises:
    UserError: Slurm does not answer.
  """
  command = ["squeue", "--noheader", "--array", "--states=all", f"--name={name}"]
  tasks: dict[int, Task] = {}
  for line in _call([*command, "--format=%F|%K|%T|%r"]).splitlines():
    array, index, state, reason = [*line.strip().split("|", 3), "", "", ""][:4]
    if not index.isdecimal():  # No task of an array: somebody has submitted the script by hand.
      continue
    task = Task(int(array), int(index), state, reason)
    other = tasks.get(task.index)
    if not other or (not task.has_ended(), task.array) > (not other.has_ended(), other.array):
      tasks[task.index] = task
  return tasks


def submit(command: Sequence[str]) -> int:
  """Runs sbatch; gives the number of the array.

  Raises:
    UserError: It refuses.
  """
  return int(_call(command).strip().partition(";")[0])  # Behind it the cluster's name may stand.


def _call(command: Sequence[str]) -> str:
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
    )
  except subprocess.TimeoutExpired:
    raise UserError(f"{command[0]} has not answered for {_COMMAND_SECONDS} s") from None
  if done.returncode:
    lines = [line.removeprefix(f"{command[0]}: ") for line in done.stderr.split("\n") if line]
    raise UserError(f"{command[0]} failed: {'; '.join(lines) or f'status {done.returncode}'}")
  return done.stdout
