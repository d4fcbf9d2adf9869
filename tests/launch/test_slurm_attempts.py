"""How often a task of a job array trains: its script, run by bash with stand-ins for Slurm's."""

import os
import pathlib
import subprocess

import pytest

from resnet_jax.launch.log import LOG
from resnet_jax.launch.slurm import Slurm

# Trains as a file says that this attempt does: ends with a status, and saves a checkpoint or not.
SRUN = """#!/bin/bash
echo x >> "$BIN/attempts"
attempt=$(wc -l < "$BIN/attempts")
act=$(sed -n "${attempt}p" "$BIN/acts")
[ "${act#save }" = "$act" ] || mkdir -p "$RUN/checkpoints/$attempt"
exit "${act##* }"
"""
# Notes that the task is to start again.
SCONTROL = """#!/bin/bash
[ "$1 $2" = "requeue 7_0" ] && touch "$BIN/requeued"
"""


def attempts(make_job, folder: pathlib.Path, retries: int, acts: list[str]) -> tuple[int, int]:
  """The number of attempts, and the status of the last, of which each acts as listed."""
  bin_folder = folder / "bin"
  bin_folder.mkdir()
  for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sleep", "#!/bin/bash\n")):
    (bin_folder / name).write_text(text)
    (bin_folder / name).chmod(0o755)
  (bin_folder / "acts").write_text("\n".join(acts) + "\n")
  job = make_job(0)
  (folder / "script").write_text(Slurm(folder, retries=retries)._text([job]))
  job.workdir.mkdir(parents=True, exist_ok=True)
  environment = os.environ | {
    "PATH": f"{bin_folder}:{os.environ['PATH']}",
    "BIN": str(bin_folder),
    "RUN": str(job.workdir),
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "0",
  }
  status = -1
  for _ in range(len(acts)):
    with (job.workdir / LOG).open("ab") as log:  # As sbatch's --open-mode=append.
      done = subprocess.run(
        ["bash", folder / "script"], env=environment, stdout=log, stderr=log, check=False
      )
    status = done.returncode
    requeued = bin_folder / "requeued"
    if not requeued.exists():
      break
    requeued.unlink()
  return len((bin_folder / "attempts").read_text().split()), status


@pytest.mark.parametrize(
  ("retries", "acts", "expected"),
  [
    (0, ["1"] * 9, (1, 1)),
    (1, ["1"] * 9, (2, 1)),
    (2, ["1"] * 9, (3, 1)),
    (2, ["1", "1", "0", "1"], (3, 0)),
    (2, ["2", "0"], (1, 2)),  # A mistake.
    (0, ["save 75", "save 75", "save 75", "0"], (4, 0)),  # Saved, which is no failure.
    (1, ["save 75", "75", "75", "0"], (3, 75)),  # Told to save, twice with nothing new.
    (1, ["1", "save 75", "1", "0"], (3, 1)),  # Failures add up over what was saved between.
  ],
)
def test_a_task_that_fails_starts_again_as_often_as_retries_say(
  make_job, tmp_path, retries, acts, expected
):
  assert attempts(make_job, tmp_path, retries, acts) == expected
