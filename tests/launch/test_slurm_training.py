"""Real trainings under a real Slurm of one node, through the command line."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import pytest
import slurm_cluster
from one_device import ONE_DEVICE

from resnet_jax.run.config import from_json
from resnet_jax.training.build import build_run
from resnet_jax.training.config import Config
from resnet_jax.training.restore import restore_variables

pytestmark = [
  pytest.mark.long,
  pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]
STEPS = 200
FIELDS = '"model.stage_sizes": (1, 1, 1), "model.width": 4, "batch_size": 32, "seed": s'
LENGTHS = f'"length": "{STEPS} steps", "log_every": "5 steps", "evaluate_every": "50 steps"'
SAVES = '"checkpoint.every": "50 steps"'


@pytest.fixture(scope="module")
def variables():
  """The environment of commands under a cluster of two cores, with time to save when displaced."""
  with (
    tempfile.TemporaryDirectory(prefix="slurm-") as folder,
    slurm_cluster.cluster(pathlib.Path(folder), kill_wait=60) as variables,
  ):
    os.environ.update(variables)  # For Slurm's commands in this process.
    yield os.environ | ONE_DEVICE
    for name in variables:
      del os.environ[name]


def write(folder: pathlib.Path, runs: int, more: str = "") -> pathlib.Path:
  path = folder / "sweep file.py"
  fields = f"{FIELDS}, {LENGTHS}, {SAVES}{more}"
  path.write_text(
    f'config = "digits"\ndef sweep():\n  for s in range({runs}):\n    yield {{{fields}}}\n'
  )
  return path


def sweep(variables, *arguments) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "resnet_jax", "sweep", *map(str, arguments)],
    env=variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process: subprocess.Popen, seconds: float = 900) -> str:
  """Waits for a sweep, tasks that were requeued starting soon; gives what it printed."""
  end = time.monotonic() + seconds
  while process.poll() is None and time.monotonic() < end:
    slurm_cluster.hurry()
    time.sleep(0.5)
  if process.poll() is None:
    process.kill()
  out, _ = process.communicate()
  assert process.returncode == 0, out
  return out


def newest_step(workdir: pathlib.Path) -> int:
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  return json.loads(lines[-1])["step"] if lines else 0


def wait_until(condition, process: subprocess.Popen, seconds: float = 300) -> None:
  end = time.monotonic() + seconds
  while not condition():
    slurm_cluster.hurry()
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.05)


def tasks() -> dict[int, str]:
  command = ["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%K %F_%K"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return {int(i): name for i, name in map(str.split, done.stdout.splitlines()) if i.isdecimal()}


def call(*command) -> None:
  subprocess.run(command, check=True, capture_output=True, timeout=60)


def results(directory: pathlib.Path) -> dict[str, tuple]:
  """Of each run its records but for times and speeds, and its last weights, byte for byte."""
  found = {}
  for workdir in sorted(directory.glob("[0-9]*")):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    kept = ("step", "split", "loss", "accuracy", "learning_rate")
    config = from_json(json.loads((workdir / "config.json").read_text()), Config)
    step, stored = restore_variables(build_run(config), workdir, "last")
    assert step == STEPS
    weights = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(stored)]
    found[workdir.name] = [{k: r[k] for k in kept if k in r} for r in records], weights
  return found


def logs(directory: pathlib.Path) -> dict[str, str]:
  return {path.parent.name: path.read_text() for path in sorted(directory.glob("*/log.txt"))}


def states(directory: pathlib.Path) -> list[str]:
  return [row["state"] for row in csv.DictReader((directory / "summary.csv").open())]


def test_requeued_displaced_and_left_by_its_watcher_a_sweep_gives_the_same_bits(
  variables, tmp_path, capsys
):
  file = write(tmp_path, 3)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  # Two cores a run: on CPUs the bits follow their number.
  alike = ("--launcher", "slurm", "--sbatch=--cpus-per-task=2")
  begun = time.monotonic()
  out = finish(sweep(variables, file, "--workdir", whole, *alike))
  took = time.monotonic() - begun
  assert states(whole) == ["finished"] * 3, out

  watcher = sweep(variables, file, "--workdir", broken, *alike)
  wait_until(lambda: newest_step(broken / "000") >= 60, watcher)
  call("scontrol", "requeue", tasks()[0])
  wait_until(lambda: newest_step(broken / "001") >= 20 and 1 in tasks(), watcher)
  call("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=true")
  watcher.send_signal(signal.SIGKILL)
  watcher.communicate()
  again = sweep(variables, file, "--workdir", broken, *alike)
  out = finish(again)
  assert "submitted" not in out  # All were in the queue.
  assert states(broken) == ["finished"] * 3
  said = logs(broken)
  starts = {name: text.count(" on ") for name, text in said.items()}
  assert results(broken) == results(whole)
  resumed = [name for name, text in said.items() if "resumed after step" in text]
  saved = [name for name, text in said.items() if "saved after SIGTERM" in text]
  assert {"000", "001"} <= set(resumed), said
  assert {"000", "001"} <= set(saved), said
  with capsys.disabled():
    print(f"\nthree runs without a break: {took:.0f} s; saved {saved}, resumed {resumed}, {starts}")


def test_two_processes_of_a_run_are_pre_empted_and_go_on(variables, tmp_path, capsys):
  directory = tmp_path / "W"
  arguments = (write(tmp_path, 1), "--workdir", directory, "--launcher", "slurm")
  process = sweep(variables, *arguments, "--processes", 2)
  wait_until(lambda: newest_step(directory / "000") >= 20, process)
  call("scancel", "--signal=TERM", tasks()[0])  # As --signal does before the time limit.
  wait_until(lambda: logs(directory)["000"].count(" on ") == 2, process)
  finish(process)
  text = logs(directory)["000"]
  assert states(directory) == ["finished"]
  assert "saved: it is started again" in text, text
  assert "resumed after step" in text, text
  evaluated = subprocess.run(
    [sys.executable, "-m", "resnet_jax", "evaluate", "--workdir", directory / "000"],
    env=variables,
    capture_output=True,
    text=True,
    check=False,
  )
  assert evaluated.returncode == 0, evaluated.stderr
  with capsys.disabled():
    remarks = [line for line in text.splitlines() if line.startswith("#") or "resumed" in line]
    print("\n" + "\n".join(line[:110] for line in remarks))
