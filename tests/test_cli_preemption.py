"""SIGTERM at every moment of `train`: the exit status, what is saved, and the run that goes on.

The signal is raised within this process, at an exact moment: between the lines of what the command
calls. That a process of its own ends so too, and what a second signal does, is tried once each.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from interrupted import Interrupted
from one_device import ONE_DEVICE

from resnet_jax.data import sources
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.records import Records
from resnet_jax.training import loop

STEPS = 9
FIELDS = (
  *("--config.model.stage_sizes", "1", "--config.model.width=4", "--config.batch_size=32"),
  *("--config.log_every=2 steps", "--config.evaluate_every=6 steps", "--config.ema_decay=0.9"),
  "--config.checkpoint.every=4 steps",
)


def command(workdir: pathlib.Path, length: int = STEPS) -> tuple[object, ...]:
  length = f"--config.length={length} steps"
  return ("train", "--config", "digits", "--workdir", workdir, *FIELDS, length)


def records(workdir: pathlib.Path) -> list[dict]:
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def saved(workdir: pathlib.Path) -> list[int]:
  return sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal())


def last_state(workdir: pathlib.Path):
  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(workdir / "checkpoints" / str(STEPS) / "state")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
  """A run that no signal has met."""
  from resnet_jax import cli

  workdir, before = tmp_path_factory.mktemp("whole"), signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as end:
    cli.main([*map(str, command(workdir))])
  signal.signal(signal.SIGTERM, before)
  assert end.value.code == 0
  return workdir


def interrupt_what_it_makes(monkeypatch, owner, name) -> list[Interrupted]:
  """As `Interrupted`, of the function that another one returns."""
  make, made = getattr(owner, name), []

  def wrapped(*arguments):
    holder = types.SimpleNamespace(call=make(*arguments))
    made.append(Interrupted(monkeypatch, holder, "call"))
    return holder.call

  monkeypatch.setattr(owner, name, wrapped)
  return made


@pytest.mark.parametrize(
  "moment",
  [
    ("override_config", "reading the config"),
    ("digits", "preparing the data"),
    ("build_run", "building the network"),
  ],
  ids=lambda moment: moment[1],
)
def test_sigterm_before_the_training_is_75_and_writes_nothing(
  moment, tmp_path, call_here, monkeypatch
):
  import resnet_jax.run.config
  import resnet_jax.training.build

  owners = {
    "override_config": resnet_jax.run.config,
    "digits": sources,
    "build_run": resnet_jax.training.build,
  }
  signals = Interrupted(monkeypatch, owners[moment[0]], moment[0])
  status, out, err = call_here(*command(tmp_path / "run"))
  assert signals.has_been
  assert (status, out) == (75, f"resnet-jax train: config digits, workdir {tmp_path / 'run'}\n")
  assert "SIGTERM came before the training; nothing is lost" in err
  assert "Traceback" not in err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("owner", "name", "time", "after", "expected"),
  [
    # The run is saved after the step that is under way.
    pytest.param(loop, "_start", 1, False, 1, id="while the state is made"),
    pytest.param(loop, "_training_values", 1, False, 2, id="while metrics are recorded"),
    pytest.param(loop, "make_validation", 1, False, 6, id="during the validation"),
    pytest.param(Checkpoints, "save", 1, False, 5, id="before a save", marks=pytest.mark.long),
    pytest.param(Checkpoints, "save", 1, True, 5, id="during a save"),
    pytest.param(
      Records, "sync", 2, True, 7, id="while records are synced", marks=pytest.mark.long
    ),
    # All is done: the run is whole.
    pytest.param(Checkpoints, "wait", 1, False, STEPS, id="while the last save is waited for"),
  ],
)
def test_sigterm_in_the_training_is_75_and_the_same_command_goes_on_to_the_same_bits(
  owner, name, time, after, expected, whole, tmp_path, call_here, monkeypatch
):
  with monkeypatch.context() as patch:
    if name == "make_validation":
      made = interrupt_what_it_makes(patch, owner, name)
    else:
      made = [Interrupted(patch, owner, name, time, after)]
    status, out, err = call_here(*command(tmp_path))
    assert made[0].has_been
  assert status == (0 if expected == STEPS else 75), err
  assert max(saved(tmp_path)) == expected
  assert not list(tmp_path.glob("checkpoints/*.tmp"))
  told = "resnet-jax: saved after SIGTERM; run the same command to go on\n"
  assert err.endswith(told) is (expected < STEPS)
  assert "Traceback" not in out + err
  assert records(tmp_path) == [r for r in records(whole) if r["step"] <= expected]
  status, out, err = call_here(*command(tmp_path))
  assert status == 0, err
  assert f"resumed after step {expected} of {STEPS}" in out
  assert records(tmp_path) == records(whole)
  jax.tree.map(np.testing.assert_array_equal, last_state(tmp_path), last_state(whole))


# The command whose saves are waited for until the test has sent what it sends.
SLOW_SAVE = """
import sys, time
from resnet_jax import cli
from resnet_jax.run.checkpoints import Checkpoints
wait = Checkpoints.wait
def slow(self):
  wait(self)
  print("saves", flush=True)
  sys.stdin.readline()
Checkpoints.wait = slow
cli.main(sys.argv[1:])
"""


def start(workdir: pathlib.Path) -> subprocess.Popen:
  process = subprocess.Popen(
    [sys.executable, "-c", SLOW_SAVE, *map(str, command(workdir, 100_000))],
    env=os.environ | ONE_DEVICE,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  while not list(workdir.glob("checkpoints/*/run.json")):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  while (line := process.stdout.readline()) != "saves\n":
    assert line, process.communicate()
  return process


def test_a_process_that_gets_sigterm_saves_ends_with_75_and_the_run_goes_on(tmp_path, call_here):
  process = start(tmp_path)
  out, err = process.communicate("now\n", timeout=120)
  assert process.returncode == 75, err
  assert err == "resnet-jax: saved after SIGTERM; run the same command to go on\n"
  last = max(saved(tmp_path))
  assert last < 100_000
  status, out, err = call_here(*command(tmp_path, last + 2))
  assert status == 0, err
  assert f"resumed after step {last} of {last + 2}" in out


def test_a_second_sigterm_ends_the_process_before_all_is_saved_and_nothing_is_torn(
  tmp_path, call_here
):
  process = start(tmp_path)
  time.sleep(0.6)  # Two that come at once are one.
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (-signal.SIGTERM, "")
  last = max(saved(tmp_path))
  status, out, err = call_here(*command(tmp_path, last + 2))
  assert status == 0, err
  assert f"resumed after step {last} of {last + 2}" in out
