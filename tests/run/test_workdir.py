"""Whose a run's directory is, and that one process at a time writes to it."""

import dataclasses
import json
import operator
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.run.workdir import claim, locked, read_config
from resnet_jax.training.config import CHANGEABLE, CheckpointConfig, Config, OptimizerConfig

HOLD = """
import pathlib, sys
from resnet_jax.run.workdir import locked
with locked(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.wait()


def test_a_directory_held_by_a_live_process_is_refused_and_the_process_named(holder, tmp_path):
  with pytest.raises(UserError, match=rf"process {holder.pid} on"), locked(tmp_path):
    pass


def test_a_killed_process_holds_nothing(holder, tmp_path):
  os.kill(holder.pid, signal.SIGKILL)
  holder.wait()
  with locked(tmp_path):
    pass


def test_the_lock_is_free_again_after_use(tmp_path):
  for _ in range(2):
    with locked(tmp_path / "new"):
      pass


def test_a_workdir_that_cannot_be_made_is_the_user_s_mistake(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file"), locked(tmp_path / "file" / "run"):
    pass


def test_the_config_is_written_once_and_read_back(tmp_path):
  config = Config(seed=5)
  claim(tmp_path, config, CHANGEABLE)
  claim(tmp_path, config, CHANGEABLE)
  assert read_config(tmp_path, Config) == config


def test_another_run_s_workdir_is_refused_by_field_and_left_alone(tmp_path):
  claim(tmp_path, Config(), CHANGEABLE)
  before = (tmp_path / "config.json").read_bytes()
  other = Config(seed=1, optimizer=OptimizerConfig(learning_rate=0.4))
  with pytest.raises(UserError, match=r"optimizer\.learning_rate is 0\.1, not 0\.4"):
    claim(tmp_path, other, CHANGEABLE)
  assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_may_get_longer_and_be_recorded_otherwise(tmp_path):
  claim(tmp_path, Config(), CHANGEABLE)
  longer = dataclasses.replace(
    Config(), length="70000 steps", log_every="10 steps", checkpoint=CheckpointConfig(keep=5)
  )
  claim(tmp_path, longer, CHANGEABLE)
  assert read_config(tmp_path, Config) == longer


def test_every_changeable_field_exists():
  model_fields = {field.name for field in dataclasses.fields(ResNet)}
  for path in CHANGEABLE:
    if path.startswith("model.overrides."):
      assert path.removeprefix("model.overrides.") in model_fields
    else:
      operator.attrgetter(path)(Config())


def test_a_directory_with_a_run_but_no_config_is_refused(tmp_path):
  (tmp_path / "metrics.jsonl").write_text("")
  with pytest.raises(UserError, match=r"config\.json"):
    claim(tmp_path, Config(), CHANGEABLE)


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"seed": "x"})])
def test_an_unreadable_config_is_the_user_s_mistake(content, tmp_path: pathlib.Path):
  if content is not None:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(UserError):
    read_config(tmp_path, Config)
