"""Whose a run's directory is."""

import dataclasses
import json
import operator
import pathlib

import pytest

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.run.workdir import claim, read_config
from resnet_jax.training.config import CHANGEABLE, CheckpointConfig, Config, OptimizerConfig


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
