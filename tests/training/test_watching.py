"""What one can see of a run while it trains, and that looking costs it nothing."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import devices
from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training import CheckpointConfig, Config, ScheduleConfig, fit
from resnet_jax.training.averages import advance_average
from resnet_jax.training.build import build_run
from resnet_jax.training.config import ProfileConfig
from resnet_jax.training.validation import make_validation

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
  data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8)),
  schedule=ScheduleConfig(boundaries=("4 steps",)),
  batch_size=16,
  length="6 steps",
  log_every="2 steps",
  evaluate_every="2 steps",
)


def records(workdir, split):
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [line for line in lines if line["split"] == split]


def test_nothing_goes_between_host_and_devices_that_the_loop_does_not_say(tmp_path):
  def stealthy(step):
    return bool(jax.jit(jnp.sum)(np.ones(3)) < step - 100)

  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    fit(build_run(CONFIG), tmp_path, should_stop=stealthy)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
  """A run with a moving average, whose best checkpoint is that of the highest average loss."""
  workdir = tmp_path_factory.mktemp("averaged")
  keep = CheckpointConfig(keep=1, keep_best=1, metric="ema_loss")
  run = build_run(dataclasses.replace(CONFIG, ema_decay=0.9, checkpoint=keep))
  return run, workdir, jax.device_get(fit(run, workdir))


def test_the_average_is_evaluated_beside_the_network(averaged):
  run, workdir, state = averaged
  lines = records(workdir, "validation")
  assert len(lines) == 3
  for line in lines:
    assert {"loss", "accuracy", "top5_accuracy", "ema_loss", "ema_accuracy"} <= line.keys()
    assert line["loss"] != line["ema_loss"]
  swapped = state.replace(params=state.average["params"], batch_stats=state.average["batch_stats"])
  again = make_validation(run)(devices.replicate(swapped))
  assert again["loss"] == lines[-1]["ema_loss"]


def test_checkpoints_are_kept_by_the_metric_that_is_named(averaged):
  _, workdir, _ = averaged
  lines = records(workdir, "validation")
  best = min(lines, key=lambda line: line["ema_loss"])["step"]
  assert Checkpoints(workdir, metric="ema_loss", read_only=True).best() == best


def test_an_average_forgets_its_beginning_soon_and_then_slowly():
  average = {"w": jnp.zeros(2)}
  for step in range(200):
    average = advance_average(average, {"w": jnp.ones(2)}, jnp.int32(step), 0.95)
  expected = 1.0
  for step in range(200):
    expected *= min(0.95, (1 + step) / (10 + step))
  np.testing.assert_allclose(1 - average["w"], expected, atol=1e-6)
  assert advance_average({}, {"w": jnp.ones(2)}, jnp.int32(0), None) == {}


def test_a_run_with_an_average_resumes_to_the_same_bits(averaged, tmp_path):
  run, _, whole = averaged
  fit(run, tmp_path, should_stop=(3).__eq__)
  resumed = jax.device_get(fit(run, tmp_path))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, whole)


def test_a_profile_is_taken_of_the_steps_that_are_asked_for(tmp_path):
  profile = ProfileConfig(start="2 steps", steps=2)
  fit(build_run(dataclasses.replace(CONFIG, profile=profile)), tmp_path)
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_no_profile_is_taken_where_none_is_asked_for_or_its_window_has_passed(averaged, tmp_path):
  _, workdir, _ = averaged
  assert not (workdir / "profile").exists()
  fit(build_run(CONFIG), tmp_path, should_stop=(4).__eq__)
  late = dataclasses.replace(CONFIG, profile=ProfileConfig(start="1 step", steps=2))
  fit(build_run(late), tmp_path)
  assert not (tmp_path / "profile").exists()


def test_the_peak_of_device_memory_is_recorded_where_devices_tell_it(monkeypatch, tmp_path):
  monkeypatch.setattr(devices, "peak_memory", lambda: 123)
  fit(build_run(dataclasses.replace(CONFIG, length="2 steps")), tmp_path)
  assert [line["peak_memory_bytes"] for line in records(tmp_path, "train")] == [123]


def test_devices_that_tell_no_memory_have_no_peak():
  assert devices.peak_memory() == 0


def test_wandb_that_is_not_installed_is_said_before_anything_runs(monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r'pip install "resnet_jax\[wandb\]"'):
    fit(build_run(dataclasses.replace(CONFIG, wandb_project="residual")), tmp_path)
  assert not records(tmp_path, "train")


def test_a_run_at_wandb_is_the_same_one_after_a_restart(monkeypatch, tmp_path):
  if importlib.util.find_spec("wandb") is None:
    pytest.skip('Weights & Biases is absent: pip install "resnet_jax[wandb]"')
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  run = build_run(dataclasses.replace(CONFIG, wandb_project="residual"))
  fit(run, tmp_path, should_stop=(3).__eq__)
  name = (tmp_path / "wandb_id").read_text()
  fit(run, tmp_path)
  assert (tmp_path / "wandb_id").read_text() == name
  written = list((tmp_path / "wandb").glob(f"offline-run-*{name}/run-{name}.wandb"))
  assert len(written) == 2
  assert all(file.stat().st_size for file in written)
