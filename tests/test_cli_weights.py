"""Commands on weights: starting from those of another run, measuring the average ones."""

import dataclasses
import json

import pytest

from resnet_jax.data import DataConfig
from resnet_jax.models import ModelConfig
from resnet_jax.run.records import read_records
from resnet_jax.run.workdir import claim
from resnet_jax.training import Config, build_run, fit

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
  data=DataConfig("digits"),
  batch_size=32,
  length="3 steps",
)
SMALL = ("--config.model.stage_sizes", "1", "--config.model.width=4", "--config.batch_size=32")


def finished(workdir, **fields):
  config = dataclasses.replace(CONFIG, **fields)
  claim(workdir, config, ())
  fit(build_run(config), workdir)
  return workdir


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
  """A run without average weights."""
  return finished(tmp_path_factory.mktemp("raw"))


def test_average_weights_are_measured_said_and_recorded_beside_the_others(tmp_path, call_here):
  finished(tmp_path, ema_decay=0.999)
  status, _, err = call_here("evaluate", "--workdir", tmp_path, "--split", "test")
  assert status == 0, err
  status, out, err = call_here("evaluate", "--workdir", tmp_path, "--split", "test", "--ema")
  assert status == 0, err
  assert out.splitlines()[1] == "average weights (ema_decay 0.999)"
  (record,) = [r for r in read_records(tmp_path) if r["split"] == "test"]
  assert record["step"] == 3
  assert record["loss"] != record["ema_loss"]
  assert record["examples"] == record["ema_examples"] == 360
  assert out.splitlines()[-1] == f"test accuracy: {record['ema_accuracy']:.2%}"


def test_a_run_without_average_weights_says_so(raw, call_here):
  status, _, err = call_here("evaluate", "--workdir", raw, "--ema")
  assert status == 2
  assert "has no average weights" in err
  assert "leave out --ema" in err


def test_a_dry_run_says_what_the_run_would_start_from(raw, tmp_path, call_here):
  fields = (*SMALL, f"--config.init_from={raw}", "--config.reset", "head/*")
  train = ("train", "--config", "digits", *fields, "--dry-run", "--workdir")
  status, out, err = call_here(*train, tmp_path / "new")
  assert status == 0, err
  assert out.splitlines()[-1] == (
    f"starts from the weights of step 3 of {raw}; head/bias, head/kernel start at random"
  )
  assert json.loads(out.split("\n\n")[0])["reset"] == ["head/*"]


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(raw, tmp_path, call_here):
  fields = ("--config.model.stage_sizes", "2", "--config.model.width=4", "--config.batch_size=32")
  for more in ((), ("--dry-run",)):
    status, out, err = call_here(
      "train", "--config", "digits", "--workdir", tmp_path / "new", *fields,
      f"--config.init_from={raw}", *more,
    )  # fmt: skip
    assert status == 2
    # A dry run prints nothing before it has checked everything.
    assert out == ("" if more else f"resnet-jax train: config digits, workdir {tmp_path / 'new'}\n")
    assert "--config.reset 'stage1/block2/*'" in err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()
