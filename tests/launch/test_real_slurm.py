"""The launcher under a real Slurm of one node; skipped where it is not installed."""

import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import pytest
import slurm_cluster

from resnet_jax.launch.job import Ending, Job
from resnet_jax.launch.slurm import Slurm
from resnet_jax.launch.slurm_queue import find_tasks
from resnet_jax.launch.slurm_script import user_options

pytestmark = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())
SOON = 60


@pytest.fixture(scope="module")
def variables():
  """Those with which Slurm's commands find a cluster of two cores."""
  with (
    tempfile.TemporaryDirectory(prefix="slurm-") as folder,
    slurm_cluster.cluster(pathlib.Path(folder)) as variables,
  ):
    yield variables


@pytest.fixture
def launcher(variables, monkeypatch, stub, tmp_path):
  """Makes a launcher of stub runs that asks often, and has them requeued at once."""
  for name, value in variables.items():
    monkeypatch.setenv(name, value)

  def launcher(folder=tmp_path, **options) -> Slurm:
    options = {"program": stub, "poll_seconds": 0.3, "stops": slurm_cluster.hurry} | options
    return Slurm(folder, **options)

  return launcher


def call(*command) -> str:
  done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SOON)
  return done.stdout


def wait_for(condition) -> None:
  end = time.monotonic() + SOON
  while not condition():
    slurm_cluster.hurry()
    assert time.monotonic() < end
    time.sleep(0.1)


def starts(job) -> int:
  path = job.workdir / "starts"
  return len(path.read_text().splitlines()) if path.exists() else 0


def log(job) -> str:
  return (job.workdir / "log.txt").read_text()


def test_runs_start_again_after_failures_but_not_after_a_user_s_mistake(make_job, launcher, capsys):
  acts = ("finish", "3", "75", "1", "2", "killed")
  jobs = [make_job(i, act) for i, act in enumerate(acts)]
  ending = launcher(retries=1).launch(jobs)
  assert ending == Ending({"003": "failed: the reason of 1", "004": "failed: the reason of 2"})
  assert [starts(job) for job in jobs] == [1, 2, 2, 2, 1, 2]
  assert all(f"start {starts(job)}\n" in log(job) for job in jobs)
  assert "failed with status 137" in log(jobs[5])
  assert "4 of 6 finished, 2 failed" in capsys.readouterr().out
  again = launcher(retries=0).launch(jobs)  # Those alone that failed are submitted.
  assert set(again.failures) == {"003", "004"}
  assert [starts(job) for job in jobs] == [1, 2, 2, 3, 2, 2]


# What Slurm sends as long as a run waits, and what becomes of that.
def cancel(task: str) -> None:
  call("scancel", task)


def requeue(task: str) -> None:
  call("scontrol", "requeue", task)


def tell(task: str) -> None:
  call("scancel", "--signal=TERM", task)  # As --signal does before the time limit.


def displace(task: str) -> None:
  call("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=true")


@pytest.mark.parametrize(
  ("send", "count", "remark"),
  [
    (requeue, 2, "was ended by Slurm, with status 75"),
    pytest.param(displace, 2, "was ended by Slurm, with status 75", marks=pytest.mark.long),
    # The stub has no checkpoint to show for it.
    pytest.param(tell, 2, "failed with status 75", marks=pytest.mark.long),
    pytest.param(cancel, 1, "was ended by Slurm, with status 75", marks=pytest.mark.long),
  ],
)
def test_what_slurm_sends_lets_a_run_save_and_it_goes_on_unless_cancelled(
  send, count, remark, make_job, launcher
):
  job = make_job(0, "patient" if send is displace else "wait")
  slurm = launcher()

  def send_once() -> None:
    wait_for((job.workdir / "waits").exists)
    task = find_tasks(slurm.name)[0]
    send(f"{task.array}_{task.index}")

  thread = threading.Thread(target=send_once)
  thread.start()
  ending = slurm.launch([job])
  thread.join()
  assert (job.workdir / "saved").exists()
  assert remark in log(job)
  assert starts(job) == count
  assert job.is_finished() == (count == 2)
  assert set(ending.failures) == (set() if count == 2 else {"000"})


def test_a_second_watcher_finds_what_the_first_one_submitted(make_job, launcher):
  jobs = [make_job(i, act) for i, act in enumerate(["wait", "finish", "finish"])]
  assert launcher(detach=True).launch(jobs[:2]) == Ending()
  wait_for(lambda: (jobs[0].workdir / "waits").exists() and jobs[1].is_finished())
  stopped = launcher(stops=lambda: starts(jobs[2]))
  assert stopped.launch(jobs) == Ending(interrupted=True)
  tasks = find_tasks(stopped.name)
  assert not tasks[0].has_ended()
  assert tasks[2].array > tasks[0].array
  requeue(f"{tasks[0].array}_0")
  assert launcher().launch(jobs) == Ending()
  assert [starts(job) for job in jobs] == [2, 1, 1]


def test_a_directory_s_name_is_only_a_name(launcher, tmp_path, stub):
  folder = tmp_path / "it's 100 % $(touch x) ; %a %j %% \" é\nnew"
  workdir = folder / "000"
  job = Job("000", workdir, {}, ["train", "--workdir", str(workdir), "--act", "finish"], 10)
  assert launcher(folder).launch([job]) == Ending()
  assert "start 1\n" in log(job)


def test_several_processes_of_a_run_are_tasks_of_one_step(make_job, launcher, tmp_path):
  program = tmp_path / "program.py"
  program.write_text(
    "import os, pathlib, sys\n"
    "rank = os.environ['SLURM_PROCID']\n"
    "workdir = pathlib.Path(sys.argv[sys.argv.index('--workdir') + 1])\n"
    "(workdir / rank).write_text(f\"{os.environ['SLURM_NTASKS']} {sys.argv[-1]}\")\n"
    "(workdir / 'checkpoints' / '10').mkdir(parents=True, exist_ok=True)\n"
  )
  job = make_job(0)
  options = user_options("--cpus-per-task=1 --comment='two words'")
  slurm = launcher(program=[sys.executable, "-S", str(program)], processes=2, options=options)
  assert slurm.launch([job]) == Ending()
  assert [(job.workdir / rank).read_text() for rank in "01"] == ["2 --distributed"] * 2
