"""What Slurm is given for a sweep: the batch script of a job array, and the options of sbatch.

What Slurm 22.05 was seen to send (tests/launch/test_real_slurm.py looks at most of it):

- `--signal` in advance of the time limit, and pre-emption with a grace time, reach the processes
  that srun started, once. A process that the script started without srun hears nothing of the
  latter. So each run is a step of srun's, a single process too.
- scancel, `scontrol requeue`, pre-emption and the time limit itself send SIGTERM to all processes
  of a task, the script's shell included, and SIGKILL after KillWait (30 s unless configured). So
  that shell knows that Slurm ends the task, and leaves to Slurm whether it starts again.
- Pre-emption without a grace time sends it twice at once, which `train` takes for one.
"""

import pathlib
import shlex
from collections.abc import Sequence

from resnet_jax.errors import UserError
from resnet_jax.launch.job import Job
from resnet_jax.launch.log import LOG

# Before the time limit: for the step and the evaluation under way, and the save.
_WARNING = "TERM@120"
# Set here, as long and as short options; sbatch takes beginnings of the long ones too.
_OURS = (
  *("--array", "--chdir", "--error", "--job-name", "--no-requeue", "--ntasks", "--open-mode"),
  *("--output", "--parsable", "--requeue", "--test-only", "--wait", "--wrap"),
)
_OURS_SHORT = ("-a", "-D", "-e", "-J", "-n", "-o", "-W")

_HEAD = """\
#!/bin/bash
# A run of a sweep: task N of a job array trains run N. Written by `resnet-jax sweep`.

"""

_TAIL = """
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
say() { echo "# $(date '+%F %T'): task $task $*"; }
checkpoints() { ls -- "$run/checkpoints" 2> /dev/null; }

# What sbatch was told of cores, srun is told by this alone.
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

say "on $SLURMD_NODENAME:$(printf ' %q' "${command[@]}")"
before=$(checkpoints)
trap 'ended_by_slurm=yes' TERM
# One process that ends does not end the others, who may still save.
srun --ntasks=@PROCESSES@ --kill-on-bad-exit=0 --wait=0 "${command[@]}"
status=$?
[ "$status" = 0 ] && exit
sleep 1 # A SIGTERM to all of the task may reach this shell last.

if [ -n "$ended_by_slurm" ]; then
  say "was ended by Slurm, with status $status"
  exit "$status" # Cancelled, it is over; pre-empted, it is started again by Slurm.
elif [ "$status" = 2 ]; then
  say "ended with status 2, a mistake: it is not started again"
  exit 2
elif [ "$status" = 75 ] && [ "$(checkpoints)" != "$before" ]; then
  say "saved: it is started again"
else
  say "failed with status $status"
  failures=$(grep -c "^# .*: task $task failed with status " < "$run/@LOG@")
  [ "$failures" -le @RETRIES@ ] || exit "$status"
fi
scontrol requeue "$task" || exit "$status"
"""


def batch_script(
  jobs: Sequence[Job],
  program: Sequence[str],
  current: pathlib.Path,
  processes: int = 1,
  retries: int = 2,
) -> str:
  """The script that every task of the array runs.

  Args:
    jobs: The runs of the array.
    program: What takes the arguments of a run.
    current: The directory from which its paths are meant.
    processes: How many train a run together.
    retries: How often a run starts again that failed, or was told to save and had nothing new.
  """
  lines = [f"cd -- {shlex.quote(str(current))} || exit", 'case "$SLURM_ARRAY_TASK_ID" in']
  for job in jobs:
    words = [*program, *job.arguments, *(["--distributed"] if processes > 1 else [])]
    lines += [
      f"  {index_of(job)})",
      f"    run={shlex.quote(str(job.workdir))}",
      f"    command=({shlex.join(words)})",
      "    ;;",
    ]
  lines += ['  *) echo "this array has no such run"; exit 2 ;;', "esac", ""]
  tail = _TAIL.replace("@PROCESSES@", str(processes)).replace("@RETRIES@", str(retries))
  return _HEAD + "\n".join(lines) + tail.replace("@LOG@", LOG)


def sbatch_command(
  jobs: Sequence[Job],
  script: pathlib.Path,
  name: str,
  processes: int = 1,
  parallel: int | None = None,
  options: Sequence[str] = (),
) -> list[str]:
  """The words that submit it.

  Args:
    jobs: The runs of the array.
    script: Absolute path of the batch script, in the directory of the sweep.
    name: The job's name.
    processes: How many train a run together.
    parallel: How many runs are under way at a time; None for as many as Slurm likes.
    options: Further ones of sbatch, which `user_options` has accepted.

  Raises:
    UserError: Slurm cannot write logs there.
  """
  if "\\" in str(script):
    raise UserError(
      f"workdir {script.parent}: Slurm writes no log to a path with a backslash; choose another one"
    )
  logs = str(script.parent).replace("%", "%%")  # It is a pattern, in which %3a is the task, as 007.
  return [
    "sbatch",
    "--parsable",
    f"--job-name={name}",
    f"--array={_ranges([index_of(job) for job in jobs])}" + (f"%{parallel}" if parallel else ""),
    f"--ntasks={processes}",
    "--requeue",
    f"--signal={_WARNING}",
    "--open-mode=append",
    f"--output={logs}/%3a/{LOG}",
    *options,
    str(script),
  ]


def user_options(text: str) -> list[str]:
  """The words of further options of sbatch.

  Raises:
    UserError: They cannot be read, or are set by the launcher.
  """
  try:
    words = shlex.split(text)
  except ValueError as error:
    raise UserError(f"--sbatch={text!r} cannot be read: {error}") from None
  for word in words:
    name, _, value = word.partition("=")
    if name == "--signal" and value.startswith("TERM@"):
      continue
    if len(name) > 3 and "--signal".startswith(name):
      raise UserError(f"--sbatch: write --signal=TERM@SECONDS, not {word}: train saves on SIGTERM")
    long = len(name) > 2 and any(ours.startswith(name) for ours in _OURS)
    if long or (word[:2] in _OURS_SHORT and word[:2] != "--"):
      instead = "; --processes says how many processes a run has" if "-n" in name[:4] else ""
      raise UserError(f"--sbatch: {name} is set by the sweep itself{instead}")
  return words


def index_of(job: Job) -> int:
  """Which task of the array a run is."""
  return int(job.name)


def _ranges(indices: Sequence[int]) -> str:
  """As sbatch takes them: "0-3,7"."""
  groups: list[list[int]] = []
  for index in sorted(indices):
    if groups and groups[-1][-1] == index - 1:
      groups[-1].append(index)
    else:
      groups.append([index])
  return ",".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)
