"""The command `sweep`, as a user has it; its launchers without training are in tests/launch."""

import csv
import functools
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml
from one_device import ONE_DEVICE

from resnet_jax.launch import local
from resnet_jax.run.lock import locked
from resnet_jax.run.records import read_records

FIELDS = '"model.stage_sizes": (1,), "model.width": 4, "batch_size": 32, "seed": s'
SEVERAL = ("--launcher", "commands", "--processes", "2")
SKY = ("--launcher", "skypilot", "--accelerator", "v5e-64", "--setup", "true")
LENGTHS = '"length": "40 steps", "log_every": "5 steps", "evaluate_every": "20 steps"'


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
  """A sweep of six short runs of digits."""
  return write(tmp_path, "range(6)")


def write(folder: pathlib.Path, seeds: str, more: str = "") -> pathlib.Path:
  path = folder / "sweep file.py"
  body = f"def sweep():\n  for s in {seeds}:\n    yield {{{FIELDS}, {LENGTHS}{more}}}\n"
  path.write_text(f'config = "digits"\n{body}')
  return path


def start(*arguments) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "resnet_jax", "sweep", *map(str, arguments)],
    env=os.environ | ONE_DEVICE,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finished(directory: pathlib.Path) -> dict[pathlib.Path, tuple[int, bytes]]:
  """Every file of the last checkpoints of finished runs: when it was written, and what it holds."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in directory.glob("*/checkpoints/40/**/*")
    if path.is_file()
  }


def rows(directory: pathlib.Path) -> list[dict[str, str]]:
  return list(csv.DictReader((directory / "summary.csv").read_text().splitlines()))


def test_a_dry_run_prints_what_would_be_run_and_writes_nothing(file, tmp_path, call_here):
  workdir = tmp_path / "a dir; $x"
  status, out, err = call_here("sweep", file, "--workdir", workdir, "--dry-run")
  assert (status, err) == (0, "")
  lines = [shlex.split(line) for line in out.splitlines() if line[0] != "#"]
  assert [line[:4] for line in lines] == [[sys.executable, "-m", "resnet_jax", "train"]] * 6
  assert lines[2][6:8] == ["--workdir", str(workdir / "002")]
  assert "--config.seed=2" in lines[2]
  pod = ("--launcher", "commands", "--tpu", "pod", "--zone", "us-central2-b")
  status, out, err = call_here("sweep", file, "--workdir", workdir, *pod, "--dry-run")
  assert (status, err) == (0, "")
  commands = [shlex.split(shlex.split(line)[-1].partition("=")[2]) for line in out.splitlines()]
  assert [c[1:-1] for c in commands] == [line[3:] for line in lines]
  slurm = ("--launcher", "slurm", "--parallel", 2, "--processes", 3, "--sbatch=-t 60")
  status, out, err = call_here("sweep", file, "--workdir", workdir, *slurm, "--dry-run")
  assert (status, err) == (0, "")
  sbatch = shlex.split(out.splitlines()[0])
  assert {"sbatch", "--array=0-5%2", "--ntasks=3", "-t"} <= set(sbatch)
  assert shlex.join(lines[2]) in out
  assert list(tmp_path.iterdir()) == [file]


def test_a_dry_run_of_skypilot_prints_every_task_and_needs_no_skypilot(
  file, tmp_path, call_here, monkeypatch
):
  monkeypatch.setenv("PATH", str(tmp_path))
  workdir = tmp_path / "a dir; $x"
  arguments = ("sweep", file, "--workdir", workdir, "--dry-run", "--config.seed=9")
  status, _, err = call_here(*arguments, *SKY)
  assert (status, "--config.seed" in err) == (2, True)
  monkeypatch.chdir(tmp_path)
  status, out, err = call_here(*arguments[:1], file.name, *arguments[2:-1], *SKY, "--spot")
  assert (status, err) == (0, "")
  tasks = [part.split("\nEND_OF_TASK\n")[0] for part in out.split(" << 'END_OF_TASK'\n")[1:]]
  assert [yaml.safe_load(task)["resources"]["use_spot"] for task in tasks] == [True] * 6
  _, plain, _ = call_here(*arguments[:-1], "--launcher", "commands")
  for task, line in zip(tasks, plain.splitlines(), strict=True):
    assert yaml.safe_load(task)["run"].splitlines()[-1] == f"exec {line} --distributed"
  assert out.count("sky jobs launch --yes --detach-run --name") == 6
  assert list(tmp_path.iterdir()) == [file]


def test_commands_are_printed_and_the_sweep_is_recorded(file, tmp_path, call_here):
  workdir = tmp_path / "W"
  arguments = (
    file,
    "--workdir",
    workdir,
    "--launcher",
    "commands",
    "--config.checkpoint.every=9 steps",
  )
  status, out, err = call_here("sweep", *arguments)
  assert (status, err, len(out.splitlines())) == (0, "", 6)
  assert all(
    shlex.split(line)[-1] == "--config.checkpoint.every=9 steps" for line in out.splitlines()
  )
  runs = json.loads((workdir / "sweep.json").read_text())["runs"]
  assert [run["overrides"]["seed"] for run in runs] == list(range(6))
  (workdir / "001" / "checkpoints" / "40").mkdir(parents=True)
  (workdir / "001" / "config.json").write_text(json.dumps(runs[1]["config"]))
  status, again, err = call_here("sweep", *arguments)
  assert (status, again.splitlines()) == (0, [*out.splitlines()[:1], *out.splitlines()[2:]])
  states = [line.split()[2] for line in err.splitlines()[1:7]]
  assert states == ["not", "finished", "not", "not", "not", "not"]


@pytest.mark.parametrize(
  ("arguments", "word"),
  [
    (["digts", "--workdir", "W"], "digits"),
    (["FILE"], "--workdir"),
    (["FILE", "--workdir", "W", "--launcher", "skipilot"], "local"),
    (["FILE", "--workdir", "W", "--parallel", "0"], "positive"),
    (["FILE", "--workdir", "W", "--retries", "-1"], "from 0"),
    (["FILE", "--workdir", "W", "--tpu", "pod"], "--tpu does not belong to --launcher local"),
    (["FILE", "--workdir", "W", "--launcher", "commands", "--zone", "Z"], "--zone belongs to"),
    (["FILE", "--workdir", "W", "--launcher", "commands", "--processes", "2"], "given together"),
    (["FILE", "--workdir", "W", *SEVERAL, "--coordinator", "host"], "expected HOST:PORT"),
    (["FILE", "--workdir", "W", *SEVERAL, "--coordinator", "h:1", "--tpu", "T"], "leave out"),
    (["FILE", "--workdir", "W", "--processes", "2"], "does not belong to --launcher local"),
    (["FILE", "--workdir", "W", "--spot"], "--spot does not belong to --launcher local"),
    (["FILE", "--workdir", "W", *SKY[:2]], "needs --accelerator"),
    (["FILE", "--workdir", "W", *SKY[:2], "--accelerator", "v5-64"], "v5e-64"),
    (["FILE", "--workdir", "W", *SKY, "--dry-run", "--parallel", "2"], "does not belong"),
    (["FILE", "--workdir", "W", *SKY], "the program sky is not on the PATH"),
    (["FILE", "--workdir", "W", "--detach"], "--detach does not belong to --launcher local"),
    (["FILE", "--workdir", "W", "--launcher", "slurm", "--sbatch=-a 1"], "-a is set by the sweep"),
    (["FILE", "--workdir", "W", "--steps=3"], "--steps"),
    (["FILE", "--workdir", "W", "--config.epochs=3"], "epochs"),
    (["FILE", "--workdir", "W", "--config.seed=3"], "--config.seed"),
    (["FILE", "--workdir", "W", "--config.bn_group=24"], "run 1 of 6 (000): bn_group=24"),
  ],
)
def test_a_mistake_costs_a_short_message_exit_code_2_and_nothing_is_written(
  arguments, word, file, tmp_path, call_here, monkeypatch
):
  monkeypatch.setenv("PATH", str(tmp_path))
  places = {"FILE": file, "W": tmp_path / "W"}
  status, out, err = call_here("sweep", *(places.get(a, a) for a in arguments))
  assert (status, out) == (2, "")
  assert word in err
  assert "Traceback" not in err
  assert len(err.splitlines()) < 20
  assert list(tmp_path.iterdir()) == [file]


def test_a_second_sweep_process_on_a_directory_is_refused(file, tmp_path, call_here):
  with locked(tmp_path / "W"):
    status, _, err = call_here("sweep", file, "--workdir", tmp_path / "W")
  assert status == 2
  assert f"in use by process {os.getpid()}" in err
  assert not (tmp_path / "W" / "sweep.json").exists()


def test_runs_are_trained_and_not_repeated_and_one_that_fails_leaves_the_rest(tmp_path):
  # A rate at which the loss overflows in a few steps.
  file = write(tmp_path, "range(2)", ', "optimizer.learning_rate": (0.1, 1e30)[s]')
  process = start(file, "--workdir", tmp_path / "W")
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 1, out
  assert "run 000 (seed=0, learning_rate=0.1): finished" in out
  assert "run 001 (seed=1, learning_rate=1e+30): failed, " in out
  assert "training diverged at step" in out.splitlines()[-1]
  before = finished(tmp_path / "W")
  assert {path.relative_to(tmp_path / "W").parts[0] for path in before} == {"000"}
  process = start(file, "--workdir", tmp_path / "W")
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 1, out
  assert finished(tmp_path / "W") == before
  assert [row["state"] for row in rows(tmp_path / "W")] == ["finished", "failed"]
  assert (tmp_path / "W" / "summary.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def under_way(tmp_path, call_here, monkeypatch):
  """Sweeps two runs of a stand-in: once the first is done, something is done to the second."""
  stub = (sys.executable, "-S", str(pathlib.Path(__file__).parent / "launch" / "stub_train.py"))
  monkeypatch.setattr(local, "Local", functools.partial(local.Local, program=stub))
  file = write(tmp_path, "range(2)", ', "optimizer.learning_rate": (0.1, 0.5)[s]')
  first, second = (tmp_path / "W" / name for name in ("000", "001"))
  awaited = (first / "checkpoints" / "40", second / "metrics.jsonl")

  def act(what) -> None:
    end = time.monotonic() + 300
    while not (ready := all(path.exists() for path in awaited)) and time.monotonic() < end:
      time.sleep(0.01)
    if ready:
      what()

  def under_way(what) -> tuple[int, str, str]:
    thread = threading.Thread(target=act, args=(what,))
    thread.start()
    found = call_here("sweep", file, "--workdir", tmp_path / "W", "--parallel", 2)
    thread.join()
    return found

  return under_way, second


def states(directory: pathlib.Path) -> list[str]:
  return [row["state"] for row in rows(directory)]


def starts(run: pathlib.Path) -> list[int]:
  return [int(line.split()[0]) for line in (run / "starts").read_text().splitlines()]


def test_a_run_that_is_pre_empted_is_started_again_and_the_sweep_is_whole(under_way):
  sweep, second = under_way
  status, out, err = sweep(lambda: os.kill(starts(second)[0], signal.SIGTERM))
  assert status == 0, out + err
  assert "run 001 (seed=1, learning_rate=0.5): waiting, status 75: start 1; it is started" in out
  assert "run 001 (seed=1, learning_rate=0.5): finished" in out
  assert states(second.parent) == ["finished", "finished"]
  assert [len(starts(run)) for run in (second.parent / "000", second)] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_stop_lets_its_runs_save_ends_with_75_and_goes_on(
  number, under_way
):
  sweep, second = under_way
  status, out, err = sweep(lambda: os.kill(os.getpid(), number))
  assert status == 75, out + err
  assert (second / "saved").exists()
  assert "run 001 (seed=1, learning_rate=0.5): saved" in out
  assert "resnet-jax: stopped; run the same command to go on" in err
  assert states(second.parent)[1] != "finished"
  runs = json.loads((second.parent / "sweep.json").read_text())["runs"]
  for name, run in zip(("000", "001"), runs, strict=True):
    # That of the stand-in is of no network that there is.
    (second.parent / name / "config.json").write_text(json.dumps(run["config"]))
  status, out, err = sweep(lambda: None)
  assert status == 0, out + err
  assert states(second.parent) == ["finished", "finished"]
  assert [len(starts(run)) for run in (second.parent / "000", second)] == [1, 2]


def wait_until_some_are_finished(process, directory: pathlib.Path, count: int) -> None:
  """And another one has recorded its first steps."""
  end = time.monotonic() + 600
  while True:
    done = [path.parts[-3] for path in directory.glob("*/checkpoints/40")]
    begun = [path.parts[-2] for path in directory.glob("*/metrics.jsonl") if path.stat().st_size]
    if len(done) >= count and len(begun) > len(done):
      return
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.02)


@pytest.mark.long
def test_a_sweep_that_is_killed_goes_on_and_repeats_no_finished_run(file, tmp_path, capsys):
  workdir = tmp_path / "W"
  process = start(file, "--workdir", workdir, "--parallel", 2)
  wait_until_some_are_finished(process, workdir, 2)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = finished(workdir)
  done = {path.relative_to(workdir).parts[0] for path in before}
  process = start(file, "--workdir", workdir, "--parallel", 2)
  out, _ = process.communicate(timeout=900)
  assert process.returncode == 0, out
  after = finished(workdir)
  assert {path: after[path] for path in before} == before
  assert sorted(row["run"] for row in rows(workdir)) == [f"{i:03d}" for i in range(6)]
  assert {row["state"] for row in rows(workdir)} == {"finished"}
  logs = {path.parts[-2]: path.read_text() for path in workdir.glob("*/log.txt")}
  starts = {name: text.count("resnet_jax train") for name, text in logs.items()}
  assert all(starts[name] == 1 for name in done)
  with capsys.disabled():
    print(f"\nfinished before kill -9: {sorted(done)}; starts of each run: {starts}")


@pytest.mark.long
def test_a_sweep_that_is_told_to_stop_saves_its_runs_and_ends_with_75(file, tmp_path):
  workdir = tmp_path / "W"
  process = start(file, "--workdir", workdir, "--parallel", 2)
  wait_until_some_are_finished(process, workdir, 1)
  process.send_signal(signal.SIGINT)
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 75, out
  assert ": saved, " in out
  assert "stopped; run the same command to go on" in out
  assert len(rows(workdir)) == 6
  saved = [path for path in workdir.glob("*/log.txt") if "saved after SIGTERM" in path.read_text()]
  process = start(file, "--workdir", workdir, "--parallel", 2)
  out, _ = process.communicate(timeout=900)
  assert process.returncode == 0, out
  assert saved
  assert all("resumed after step" in path.read_text() for path in saved)
  assert {row["state"] for row in rows(workdir)} == {"finished"}


def run_lines(lines, folder: pathlib.Path) -> list[subprocess.Popen]:
  """Each as a shell has it, at the same time, with a program `resnet-jax` on the path."""
  program = folder / "bin" / "resnet-jax"
  program.parent.mkdir(exist_ok=True)
  program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m resnet_jax "$@"\n')
  program.chmod(0o755)
  path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}
  return [
    subprocess.Popen(
      ["sh", "-c", f"exec {line}"],  # Or a signal would end the shell alone.
      env=os.environ | ONE_DEVICE | path,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for line in lines
  ]


def outcome(processes, seconds: float = 120) -> tuple[list[int], list[str]]:
  """Statuses and output; none is left behind."""
  try:
    said = [process.communicate(timeout=seconds)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], said


def wait_for_checkpoint(run: pathlib.Path, step: int, processes) -> int:
  """Until one of this step or a later one is there; gives which."""
  end = time.monotonic() + 120
  while True:
    saved = [int(path.name) for path in run.glob("checkpoints/*") if path.name.isdecimal()]
    if max(saved, default=0) >= step:
      return max(saved)
    assert all(process.poll() is None for process in processes), outcome(processes)
    assert time.monotonic() < end
    time.sleep(0.005)


@pytest.mark.long
@pytest.mark.parametrize(
  ("number", "statuses"), [(signal.SIGTERM, {75}), (signal.SIGKILL, {-signal.SIGKILL, 1})]
)
def test_the_lines_for_two_processes_train_stop_resume_and_finish_a_run(
  number, statuses, tmp_path, call_here
):
  file = write(tmp_path, "range(2)", ', "length": "240 steps", "evaluate_every": "120 steps"')
  workdir = tmp_path / "a dir"
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  arguments = (file, "--workdir", workdir, *SEVERAL, "--coordinator", address)
  saving = "--config.checkpoint.every=10 steps"
  status, out, err = call_here("sweep", *arguments, saving)
  assert (status, err, len(out.splitlines())) == (0, "", 4)
  lines, run = out.splitlines()[2:], workdir / "001"
  assert [shlex.split(line)[-1] for line in lines] == ["0", "1"]
  assert all("--config.seed=1" in line for line in lines)

  processes = run_lines(lines, tmp_path)
  wait_for_checkpoint(run, 10, processes)
  processes[1].send_signal(number)
  got, said = outcome(processes)
  assert set(got) <= statuses, said
  saved = wait_for_checkpoint(run, 10, [])
  assert saved < 240

  got, said = outcome(run_lines(lines, tmp_path))
  assert got == [0, 0], said
  assert "resumed after step" in said[0]
  steps = [record["step"] for record in read_records(run) if record["split"] == "train"]
  assert steps == list(range(5, 241, 5))
  (last,) = [r for r in read_records(run) if (r["step"], r["split"]) == (240, "validation")]
  status, out, err = call_here("evaluate", "--workdir", run, "--json")
  assert status == 0, err
  assert json.loads(out.splitlines()[-1])["accuracy"] == pytest.approx(last["accuracy"])
  # What is finished is not printed again.
  status, out, err = call_here("sweep", *arguments, saving)
  assert (status, len(out.splitlines())) == (0, 2)


SEARCH = ("--trials", "2")
NEEDS_OPTUNA = pytest.mark.skipif(
  importlib.util.find_spec("optuna") is None, reason="searches need Optuna"
)


def write_search(folder: pathlib.Path, more: str = "") -> pathlib.Path:
  """A search file of short runs of digits."""
  path = folder / "search.py"
  fields = FIELDS.replace(": s", ": trial.number")
  rate = '"optimizer.learning_rate": trial.suggest_float("rate", 1e-3, 1, log=True)'
  path.write_text(
    f'config = "digits"\n{more}\ndef suggest(trial):\n  return {{{rate}, {fields}, {LENGTHS}}}\n'
  )
  return path


def test_without_optuna_a_search_costs_a_line(tmp_path, call_here, monkeypatch):
  file = write_search(tmp_path)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  status, out, err = call_here("sweep", file, "--workdir", tmp_path / "W", *SEARCH)
  assert (status, out) == (2, "")
  assert err == 'resnet-jax: --trials needs Optuna: pip install "resnet_jax[search]"\n'


def test_nothing_but_a_search_imports_optuna(file, tmp_path):
  code = (
    "import sys; from resnet_jax import cli\n"
    f"try: cli.main({['sweep', str(file), '--workdir', str(tmp_path / 'W'), '--dry-run']!r})\n"
    "except SystemExit as e: print(e.code, 'optuna' in sys.modules)"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.splitlines()[-1] == "0 False"


@NEEDS_OPTUNA
def test_a_dry_run_of_a_search_prints_its_first_trial_and_writes_nothing(tmp_path, call_here):
  file, workdir = write_search(tmp_path), tmp_path / "W"
  arguments = ("sweep", file, "--workdir", workdir, *SEARCH, "--dry-run")
  status, out, err = call_here(*arguments)
  assert (status, err) == (0, "")
  (line,) = [shlex.split(line) for line in out.splitlines() if line[0] != "#"]
  assert line[:4] == [sys.executable, "-m", "resnet_jax", "train"]
  assert line[6:8] == ["--workdir", str(workdir / "000")]
  assert out.startswith("# 2 trials; the first of a new search")
  assert call_here(*arguments)[1] == out
  assert list(tmp_path.iterdir()) == [file]


@NEEDS_OPTUNA
@pytest.mark.parametrize(
  ("arguments", "more", "word"),
  [
    ([], "", "it is a search: say how many trials with --trials N"),
    (SEARCH, "def sweep(): yield {}", "both sweep() and suggest()"),
    (["--trials", "0"], "", "positive"),
    ([*SEARCH, "--launcher", "commands"], "", "--trials goes with --launcher local"),
    ([*SEARCH, *SKY], "", "--trials goes with --launcher local"),
    ([*SEARCH, "--config.bn_group=24"], "", "bn_group=24"),
    ([*SEARCH, "--config.seed=3"], "", "--config.seed: suggest() gives this field"),
  ],
)
def test_a_mistake_in_a_search_costs_a_short_message_and_nothing_is_written(
  arguments, more, word, tmp_path, call_here
):
  file = write_search(tmp_path, more)
  status, out, err = call_here("sweep", file, "--workdir", tmp_path / "W", *arguments)
  assert (status, out) == (2, "")
  assert word in err
  assert "Traceback" not in err
  assert len(err.splitlines()) < 25
  assert list(tmp_path.iterdir()) == [file]


@NEEDS_OPTUNA
def test_trials_of_a_file_with_sweep_are_refused(file, tmp_path, call_here):
  status, _, err = call_here("sweep", file, "--workdir", tmp_path / "W", *SEARCH)
  assert (status, "leave out --trials" in err) == (2, True)


@NEEDS_OPTUNA
@pytest.mark.long
def test_a_search_that_is_killed_goes_on_and_loses_no_trial(tmp_path, capsys):
  file, workdir = write_search(tmp_path), tmp_path / "W"
  arguments = (file, "--workdir", workdir, "--trials", 6, "--parallel", 2)
  process = start(*arguments)
  wait_until_some_are_finished(process, workdir, 2)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = finished(workdir)
  begun = {path.name for path in workdir.glob("0*")}
  done = {path.relative_to(workdir).parts[0] for path in before}
  process = start(*arguments)
  out, _ = process.communicate(timeout=900)
  after = finished(workdir)
  assert {path: after[path] for path in before if path in after} == before
  states = {row["run"]: row["state"] for row in rows(workdir)}
  assert sorted(states) == [f"{i:03d}" for i in range(6)]
  assert set(states.values()) <= {"finished", "pruned", "failed"}
  assert process.returncode == int("failed" in states.values()), out
  assert "best trial: " in out.splitlines()[-1]
  logs = {path.parts[-2]: path.read_text() for path in workdir.glob("*/log.txt")}
  starts = {name: text.count("resnet_jax train") for name, text in logs.items()}
  assert all(starts[name] == 1 for name in done)
  assert all(states[name] != "failed" for name in begun)
  # All is over: nothing is started, and the same is said.
  process = start(*arguments)
  again, _ = process.communicate(timeout=900)
  assert again.splitlines()[-1] == out.splitlines()[-1]
  assert finished(workdir) == after
  with capsys.disabled():
    print(f"\nfinished before kill -9: {sorted(done)} of {sorted(begun)}; starts: {starts}")
    print(out)
