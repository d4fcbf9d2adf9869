"""The launcher under a real Slurm of one node; skipped where it is not installed."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from resnet_jax.launch.job import Ending
from resnet_jax.launch.slurm import Slurm
from resnet_jax.launch.slurm_queue import find_tasks
from tests.launch import slurm_cluster

pytestmark = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())
SOON = 60


@pytest.fixture(scope="module")
def slurm():
  """Variables with which Slurm's commands find a cluster of two cores."""
  with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
    with slurm_cluster.cluster(pathlib.Path(folder)) as variables:
      yield variables


@pytest.fixture
def here(slurm, monkeypatch):
  """This process's own commands find it."""
  for name, value in slurm.items():
    monkeypatch.setenv(name, value)


@pytest.fixture
def launcher(here, stub, tmp_path):
  """Makes a launcher of stub runs that asks often, and has them requeued at once."""

  def launcher(**options) -> Slurm:
    return Slurm(tmp_path, program=stub, poll_seconds=0.3, stops=hurry, **options)

  return launcher


def hurry() -> int:
  """Slurm lets a task that was requeued wait for two minutes: not here."""
  listed = call("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r")
  for line in listed.splitlines():
    if line.endswith("BeginTime"):
      call("scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")
  return 0


def call(*command) -> str:
  return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def starts(job) -> int:
  path = job.workdir / "starts"
  return len(path.read_text().splitlines()) if path.exists() else 0


def test_x(make_job, launcher, capsys):
  acts = ["finish", "3", "75", "1", "2", "killed"]
  jobs = [make_job(i, act) for i, act in enumerate(acts)]
  print(launcher(retries=1).launch(jobs))
  print(capsys.readouterr().out)
  for job in jobs:
    print((job.workdir / "log.txt").read_text())
  print(launcher().lines(jobs[:2]))
  assert 0
