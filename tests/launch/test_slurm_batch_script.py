"""What the batch script does with each end of a run: started again or not, and with which status.

A shell runs it as Slurm would; `srun` and `scontrol` are stand-ins. tests/launch/test_real_slurm.py
does the same under Slurm, where that is installed.
"""

import os
import pathlib
import stat
import subprocess

import pytest

from resnet_jax.launch.job import Job
from resnet_jax.launch.log import LOG
from resnet_jax.launch.slurm_script import batch_script

RETRIES = 2
# Takes the place of a run: makes a checkpoint or not, has Slurm end the task or not, and ends.
SRUN = """\
#!/bin/bash
[ -z "$SAVES" ] || mkdir -p "$RUN/checkpoints/$(ls "$RUN" | wc -l)$RANDOM"
[ -z "$ENDED" ] || kill -TERM "$PPID"
exit "$STATUS"
"""
SCONTROL = """\
#!/bin/bash
echo "$@" >> "$RUN/requeued"
exit "${REFUSES:-0}"
"""


@pytest.fixture
def task(tmp_path):
  """Runs the script of run 003 once more: its exit status, and its own last remark."""
  workdir, folder = tmp_path / "003", tmp_path / "bin"
  for path in (workdir, folder):
    path.mkdir()
  # The script sleeps before it looks for a late signal; here none is late.
  for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sleep", "#!/bin/bash\n")):
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRWXU)
  job = Job("003", workdir, {}, ["train"], 10)
  script = tmp_path / "script"
  script.write_text(batch_script([job], ["program"], tmp_path, retries=RETRIES))

  def task(status: int, **variables: str) -> tuple[int, str]:
    with (workdir / LOG).open("a") as log:
      done = subprocess.run(
        ["bash", script],
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "RUN": str(workdir), "STATUS": str(status)}
        | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
        | variables,
        stdout=log,
        stderr=subprocess.PIPE,
        check=False,
      )
    last = (workdir / LOG).read_text().splitlines()[-1]
    return done.returncode, last.partition(": task 7_3 ")[2]

  return task


def requeued(tmp_path: pathlib.Path) -> list[str]:
  path = tmp_path / "003" / "requeued"
  return path.read_text().splitlines() if path.exists() else []


def test_a_run_that_was_told_to_save_is_started_again_however_often(task, tmp_path):
  for time in range(1, RETRIES + 4):
    assert task(75, SAVES="yes") == (0, "saved: it is started again")
    assert requeued(tmp_path) == time * ["requeue 7_3"]


@pytest.mark.parametrize("status", [1, 75, 137])
def test_a_run_that_fails_or_saves_nothing_new_is_started_again_so_often_and_no_more(
  status, task, tmp_path
):
  for time in range(1, RETRIES + 1):
    assert task(status) == (0, f"failed with status {status}")
    assert requeued(tmp_path) == time * ["requeue 7_3"]
  assert task(status) == (status, f"failed with status {status}")
  assert len(requeued(tmp_path)) == RETRIES


@pytest.mark.parametrize(
  ("status", "remark"),
  [(2, "ended with status 2, a mistake: it is not started again"), (0, "on : program train")],
)
def test_a_mistake_and_a_finished_run_are_not_started_again(status, remark, task, tmp_path):
  assert task(status) == (status, remark)
  assert requeued(tmp_path) == []


def test_a_run_that_slurm_itself_ends_is_left_to_slurm(task, tmp_path):
  assert task(75, SAVES="yes", ENDED="yes") == (75, "was ended by Slurm, with status 75")
  assert requeued(tmp_path) == []


def test_a_queue_that_takes_the_run_back_no_more_gives_the_run_s_own_status(task):
  assert task(75, SAVES="yes", REFUSES="1")[0] == 75
  assert task(1, REFUSES="1")[0] == 1
