"""The launcher that runs: places, retries, pauses, what a death leaves; nothing is trained."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from resnet_jax.launch.job import Ending
from resnet_jax.launch.local import Local
from resnet_jax.launch.slots import Slot
from resnet_jax.run.lock import holder_of, locked

# A sweep in a process of its own, to be killed: run DIR ACT ACT …
SWEEP = """
import pathlib, sys, threading, time
for _ in range(20):  # as JAX has them
  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from resnet_jax.launch.job import Job
from resnet_jax.launch.local import Local
from resnet_jax.launch.slots import Slot
folder, stub, *acts = sys.argv[1:]
jobs = []
for index, act in enumerate(acts):
  workdir = pathlib.Path(folder) / f"{index:03d}"
  arguments = ["train", "--workdir", str(workdir), "--act", act]
  jobs.append(Job(workdir.name, workdir, {}, arguments, 10))
Local([Slot(), Slot()], program=[sys.executable, "-S", stub]).launch(jobs)
"""


def starts(job) -> list[list[str]]:
  path = job.workdir / "starts"
  return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds: float = 30) -> None:
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def test_all_runs_end_and_a_second_call_starts_none(make_job, stub, capsys):
  jobs = [make_job(i) for i in range(5)]
  assert Local([Slot(), Slot()], program=stub).launch(jobs) == Ending()
  assert [len(starts(job)) for job in jobs] == [1] * 5
  assert "run 004 (act=finish, seed=4): finished" in capsys.readouterr().out
  assert Local(program=stub).launch(jobs) == Ending()
  assert [len(starts(job)) for job in jobs] == [1] * 5
  assert "5 of 5 finished" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("act", "retries", "count", "failure"),
  [
    ("75", 2, 2, None),  # pre-empted, then not
    ("killed", 1, 2, None),
    ("3", 2, 2, None),
    ("killed", 0, 1, "ended by SIGKILL: start 1"),
    ("1", 2, 3, "status 1: the reason of 1"),
    ("2", 2, 1, "status 2: the reason of 2"),
  ],
)
def test_a_run_that_was_pre_empted_or_failed_is_started_again_but_not_for_a_user_s_mistake(
  act, retries, count, failure, make_job, stub
):
  jobs = [make_job(0, act), make_job(1)]
  ending = Local(retries=retries, program=stub).launch(jobs)
  assert dict(ending.failures) == ({"000": failure} if failure else {})
  assert [len(starts(job)) for job in jobs] == [count, 1]
  assert (jobs[0].is_finished(), jobs[1].is_finished()) == (failure is None, True)


def test_the_log_of_a_run_holds_the_commands_and_all_output_of_its_starts(make_job, stub):
  job = make_job(0, "1")
  Local(retries=1, program=stub).launch([job])
  lines = (job.workdir / "log.txt").read_text().splitlines()
  assert [line.split(": ")[1].split()[0] for line in lines if line[0:1] == "#"] == [stub[0]] * 2
  assert [line for line in lines if line and line[0] != "#"] == [
    *("start 1", "the reason of 1"),
    *("start 2", "the reason of 1"),
  ]


def test_runs_that_are_under_way_together_have_different_devices(make_job, stub):
  jobs = [make_job(0, "wait"), make_job(1, "wait")]
  slots = [Slot({"CUDA_VISIBLE_DEVICES": "0,1"}), Slot({"CUDA_VISIBLE_DEVICES": "2,3"})]
  stops = Stopped(jobs)
  assert Local(slots, stops=stops, program=stub).launch(jobs).interrupted
  assert {starts(job)[0][1] for job in jobs} == {"0,1", "2,3"}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are divided on Linux")
def test_a_run_is_kept_to_the_cores_of_its_place(make_job, stub):
  core = max(os.sched_getaffinity(0))
  job = make_job(0, "wait")
  seen = []

  def stops() -> int:
    if not seen and (job.workdir / "waits").exists():
      seen.append(os.sched_getaffinity(int(starts(job)[0][0])))
    return len(seen)

  Local([Slot(cores=[core])], stops=stops, program=stub).launch([job])
  assert seen[0] == {core}


class Stopped:
  """Is told to stop once all of some runs wait."""

  def __init__(self, jobs):
    self._jobs = jobs

  def __call__(self) -> int:
    return int(all((job.workdir / "waits").exists() for job in self._jobs))


def test_a_stop_is_passed_on_waits_for_the_children_and_a_second_call_goes_on(make_job, stub):
  jobs = [make_job(0, "wait"), make_job(1, "wait"), make_job(2)]
  ending = Local([Slot(), Slot()], stops=Stopped(jobs[:2]), program=stub).launch(jobs)
  assert ending == Ending({}, interrupted=True)
  assert [(job.workdir / "saved").exists() for job in jobs] == [True, True, False]
  assert starts(jobs[2]) == []
  assert Local(program=stub).launch(jobs) == Ending()
  assert [len(starts(job)) for job in jobs] == [2, 2, 1]


def test_children_of_a_sweep_that_is_killed_save_and_end(make_job, stub, tmp_path):
  jobs = [make_job(0, "wait"), make_job(1), make_job(2, "wait")]
  acts = ["wait", "finish", "wait"]
  process = subprocess.Popen([sys.executable, "-c", SWEEP, tmp_path, stub[-1], *acts])
  wait_for(lambda: all((job.workdir / "waits").exists() for job in (jobs[0], jobs[2])))
  process.send_signal(signal.SIGKILL)
  process.wait()
  for job in (jobs[0], jobs[2]):
    wait_for((job.workdir / "saved").exists)
  assert Local(program=stub).launch(jobs) == Ending()
  assert [len(starts(job)) for job in jobs] == [2, 1, 2]


def test_a_run_that_another_process_trains_is_waited_for_and_not_repeated(make_job, stub, capsys):
  jobs = [make_job(0), make_job(1)]
  code = (
    "import pathlib, sys\n"
    "from resnet_jax.run.lock import locked\n"
    "workdir = pathlib.Path(sys.argv[1])\n"
    "with locked(workdir):\n"
    "  print('held', flush=True)\n"
    "  sys.stdin.read()\n"
    "  (workdir / 'checkpoints' / '10').mkdir(parents=True)\n"
  )
  other = subprocess.Popen(
    [sys.executable, "-c", code, jobs[0].workdir],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert other.stdout.readline() == "held\n"
  assert f"process {other.pid}" in holder_of(jobs[0].workdir)

  def release() -> None:
    wait_for(jobs[1].is_finished)
    other.communicate()

  thread = threading.Thread(target=release)
  thread.start()
  assert Local(program=stub).launch(jobs) == Ending()
  thread.join()
  assert [len(starts(job)) for job in jobs] == [0, 1]
  out = capsys.readouterr().out
  assert f"held, waits for process {other.pid}" in out
  assert "run 000 (act=finish, seed=0): finished" in out


def test_a_lock_that_a_killed_process_left_is_nobody_s(make_job, tmp_path):
  assert holder_of(tmp_path / "absent") is None
  with locked(tmp_path):
    left = (tmp_path / "lock").read_bytes()
  assert holder_of(tmp_path) is None
  (tmp_path / "lock").write_bytes(left)
  assert holder_of(tmp_path) is None


def test_a_run_without_its_last_checkpoint_is_not_finished(make_job):
  job = make_job(0)
  assert not job.is_finished()
  for name in ("9", "10.tmp", "10.damaged"):
    (job.workdir / "checkpoints" / name).mkdir(parents=True)
  assert not job.is_finished()
  (job.workdir / "checkpoints" / "10").mkdir()
  assert job.is_finished()


def test_an_error_of_the_launcher_ends_its_children_too(make_job, stub):
  jobs = [make_job(0, "wait"), make_job(1)]
  slots = [Slot()]

  def stops() -> int:
    if (jobs[0].workdir / "waits").exists():
      raise OSError("no space left")
    return 0

  with pytest.raises(OSError, match="no space left"):
    Local(slots, stops=stops, program=stub).launch(jobs)
  assert (jobs[0].workdir / "saved").exists()
  assert starts(jobs[1]) == []
