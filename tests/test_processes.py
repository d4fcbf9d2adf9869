"""Several processes train one run as one process does, end when one of them ends, and resume."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.workdir import read_config
from resnet_jax.training import Config
from resnet_jax.training.build import build_run
from resnet_jax.training.restore import abstract_state

STEPS = 24
FIELDS = (
  "--config.model.stage_sizes 1 --config.model.width=4 --config.model.dtype=float64 "
  "--config.model.param_dtype=float64 --config.batch_size=32 --config.bn_group=16 "
  f"--config.accumulate=2 --config.ema_decay=0.9 --config.length={STEPS}steps "
  "--config.log_every=1steps --config.evaluate_every=10steps --config.checkpoint.every=4steps "
  "--config.optimizer.learning_rate=0.02 --config.schedule.kind=plateau "
  "--config.schedule.plateau.patience=0"
).split()
SOON = 60  # seconds within which a process ends that has lost another


def start(workdir, *arguments, devices=2):
  """The command in a process of its own, with float64 and so many devices."""
  flags = os.environ.get("XLA_FLAGS", "")
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "resnet_jax", "train", "--config", "digits"),
      *("--workdir", str(workdir), *FIELDS, *arguments),
    ],
    env=os.environ
    | {
      "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
      "JAX_PLATFORMS": "cpu",
      "JAX_ENABLE_X64": "1",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(workdir, *arguments, of_second=()):
  """Two processes with two devices each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  several = ("--coordinator", address, "--processes", "2", "--process")
  own = ((), of_second)
  return [start(workdir, *arguments, *own[i], *several, str(i)) for i in range(2)]


def ended(processes, seconds=200):
  """Exit statuses and what was said on standard error; nobody is left behind."""
  try:
    said = [process.communicate(timeout=seconds)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], said


def checkpoints(workdir):
  return sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal())


def wait_for_step(workdir, step, processes):
  """Until a checkpoint of the step, or of a later one, is there."""
  end = time.monotonic() + 150
  while max(checkpoints(workdir), default=0) < step:
    assert time.monotonic() < end, f"no checkpoint of step {step}"
    assert all(process.poll() is None for process in processes), ended(processes)
    time.sleep(0.005)


def records(workdir):
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [
    {name: value for name, value in line.items() if name != "images_per_second"} for line in lines
  ]


def last_state(workdir):
  """The arrays of the last checkpoint, by name."""
  with jax.enable_x64(True):
    like = abstract_state(build_run(read_config(workdir, Config)))
    state, _ = Checkpoints(workdir, read_only=True).restore(max(checkpoints(workdir)), like)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_run(workdir, other):
  ours, theirs = last_state(workdir), last_state(other)
  assert ours.keys() == theirs.keys()
  assert any(array.dtype == np.float64 for array in ours.values())
  for name in ours:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-10, atol=1e-10, err_msg=name)
  ours, theirs = records(workdir), records(other)
  assert [(r["step"], r["split"]) for r in ours] == [(r["step"], r["split"]) for r in theirs]
  for one, two in zip(ours, theirs, strict=True):
    assert one.pop("split") == two.pop("split")
    assert one == pytest.approx(two, rel=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> pathlib.Path:
  """The run of one process with four devices."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  (status,), (said,) = ended([start(workdir, devices=4)])
  assert status == 0, said
  return workdir


def test_two_processes_with_two_devices_each_do_what_one_with_four_does(alone, tmp_path):
  statuses, said = ended(start_two(tmp_path))
  assert statuses == [0, 0], said
  assert_same_run(tmp_path, alone)


def test_two_processes_of_which_one_gets_sigterm_both_end_with_75_and_go_on_together(tmp_path):
  processes = start_two(tmp_path, "--config.length=100000steps")
  wait_for_step(tmp_path, 4, processes)
  processes[1].send_signal(signal.SIGTERM)
  statuses, said = ended(processes)
  assert statuses == [75, 75], said
  assert [text.count("saved after SIGTERM; run the same command") for text in said] == [1, 0]
  saved = max(checkpoints(tmp_path))
  statuses, said = ended(start_two(tmp_path, f"--config.length={saved + 2}steps"))
  assert statuses == [0, 0], said
  assert checkpoints(tmp_path)[-1] == saved + 2
  steps = [record["step"] for record in records(tmp_path) if record["split"] == "train"]
  assert steps == list(range(1, saved + 3))


@pytest.mark.long
def test_a_run_whose_processes_end_in_every_way_goes_on_with_any_devices(alone, tmp_path):
  processes = start_two(tmp_path)
  wait_for_step(tmp_path, 4, processes)
  processes[1].send_signal(signal.SIGTERM)
  statuses, said = ended(processes, SOON)
  assert statuses == [75, 75], said
  saved = max(checkpoints(tmp_path))
  assert "saved after SIGTERM" in said[0]

  processes = start_two(tmp_path)
  wait_for_step(tmp_path, saved + 4, processes)
  processes[1].kill()
  begun = time.monotonic()
  (status, _), (message, _) = ended(processes, SOON)
  assert status not in (0, 75), message
  assert time.monotonic() - begun < SOON
  # Where both were in the middle of a save, JAX ends the process, and says so.
  assert "another process has ended" in message or "another task died" in message
  assert "Traceback" not in message
  saved = max(checkpoints(tmp_path))

  processes = start_two(tmp_path, "--config.parallel=shard_map")
  wait_for_step(tmp_path, saved + 4, processes)
  processes[0].kill()
  begun = time.monotonic()
  (_, status), _ = ended(processes, SOON)
  assert status not in (0, 75)
  assert time.monotonic() - begun < SOON

  for steps, devices in ((STEPS - 3, 1), (STEPS, 2)):
    last = start(tmp_path, f"--config.length={steps}steps", devices=devices)
    (status,), (message,) = ended([last])
    assert status == 0, message
  assert max(checkpoints(tmp_path)) == STEPS
  # The evaluation at the end of the shorter run is one more.
  kept = [r for r in records(tmp_path) if (r["step"], r["split"]) != (STEPS - 3, "validation")]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
  assert_same_run(tmp_path, alone)


@pytest.mark.parametrize(
  ("arguments", "of_second", "words"),
  [
    ([], ["--config.seed=5"], "has another config than process 0"),
    pytest.param(["--config.batch_size=30"], [], "batch_size=30", marks=pytest.mark.long),
  ],
)
def test_a_mistake_ends_all_processes_with_a_message(arguments, of_second, words, tmp_path):
  statuses, said = ended(start_two(tmp_path / "run", *arguments, of_second=of_second), SOON)
  assert statuses == [2, 2], said
  assert all(words in message for message in said), said
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--processes", "2"], "given together"),
    (["--coordinator", "host:1", "--processes", "2", "--process", "2"], "the last is 1"),
    (["--coordinator", "host", "--processes", "2", "--process", "0"], "expected HOST:PORT"),
    (["--distributed", "--process", "0"], "give --distributed, or"),
  ],
)
def test_arguments_that_do_not_fit_together_are_named(arguments, words, tmp_path, capsys):
  with pytest.raises(SystemExit) as ended:
    cli.main(["train", "--config", "digits", "--workdir", str(tmp_path / "run"), *arguments])
  assert ended.value.code == 2
  assert words in capsys.readouterr().err


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_waits_for_others_in_vain_ends_with_a_message(index):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  code = f"from resnet_jax import processes; processes.join({address!r}, 2, {index}, seconds=3)"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=SOON, check=False
  )
  assert done.returncode == 2
  assert "not all processes came within 3 s" in done.stderr


def test_processes_that_nothing_is_known_of_are_asked_for(tmp_path):
  code = "from resnet_jax import cli; cli.main()"
  arguments = ["train", "--config", "digits", "--workdir", str(tmp_path / "run"), "--distributed"]
  without = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    env=without | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=SOON,
    check=False,
  )
  assert done.returncode == 2
  assert "give --coordinator HOST:PORT --processes N --process I" in done.stderr
