"""The loop: what is recorded and saved when; a run that stops goes on to the same bits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training import CheckpointConfig, Config, OptimizerConfig, ScheduleConfig, fit
from resnet_jax.training.build import build_run
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.restore import (
  abstract_state,
  initial_state,
  require_resumable,
  to_stored,
)

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1, 1, 1), "width": 4}),
  data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8)),
  schedule=ScheduleConfig(boundaries=("4 steps",)),
  batch_size=16,
  length="11 steps",
  log_every="3 steps",
  evaluate_every="5 steps",
  checkpoint=CheckpointConfig(every="4 steps", keep=2),
)


def records(workdir):
  """All records, less what depends on the clock."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that was never stopped: its workdir and its last state."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, jax.device_get(fit(build_run(CONFIG), workdir))


def test_records_stand_at_the_steps_that_are_due_and_at_the_last(whole):
  workdir, _ = whole
  lines = records(workdir)
  assert [(r["step"], r["split"]) for r in lines] == [
    (3, "train"),
    (5, "validation"),
    (6, "train"),
    (9, "train"),
    (10, "validation"),
    (11, "train"),
    (11, "validation"),
  ]
  assert [r["examples"] for r in lines] == [48, 10, 48, 48, 10, 32, 10]
  assert [round(r["learning_rate"], 6) for r in lines if r["split"] == "train"] == [
    0.1,
    0.01,
    0.01,
    0.01,
  ]


def test_it_saves_when_due_with_every_evaluation_and_at_the_end(whole, monkeypatch, tmp_path):
  saved = []
  monkeypatch.setattr(Checkpoints, "save", lambda self, step, *_: saved.append(step))
  fit(build_run(CONFIG), tmp_path)
  assert saved == [4, 5, 8, 10, 11]


@pytest.mark.parametrize(("rate", "log_every"), [(1e38, "1 steps"), (1e38, "20 steps")])
def test_a_state_that_diverged_in_the_very_step_that_is_due_is_not_saved(rate, log_every, tmp_path):
  wild = dataclasses.replace(
    CONFIG,
    optimizer=OptimizerConfig(learning_rate=rate),
    log_every=log_every,
    evaluate_every="1 steps",
  )
  with pytest.raises(UserError, match="diverged"):
    fit(build_run(wild), tmp_path)
  assert Checkpoints(tmp_path).last() is None
  assert all(np.isfinite(r["loss"]) for r in records(tmp_path))


def test_a_run_does_not_go_on_with_other_data(tmp_path):
  run = build_run(dataclasses.replace(CONFIG, length="6 steps"))
  fit(run, tmp_path)
  other = dataclasses.replace(CONFIG.data, synthetic=SyntheticConfig(41, 10, image_size=8))
  with pytest.raises(UserError, match="train split of synthetic"):
    fit(build_run(dataclasses.replace(CONFIG, data=other)), tmp_path)


@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_a_run_that_was_stopped_ends_with_the_same_bits_and_records(stop, whole, tmp_path):
  workdir, state = whole
  steps = iter(range(1, 100))
  run = build_run(CONFIG)
  fit(run, tmp_path, should_stop=lambda: next(steps) == stop)
  assert Checkpoints(tmp_path, read_only=True).last() == stop
  resumed = jax.device_get(fit(run, tmp_path))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, state)
  assert records(tmp_path) == records(workdir)


SCANNED = dataclasses.replace(
  CONFIG, model=ModelConfig("resnet20", {"stage_sizes": (1, 3), "width": 4, "scan": True})
)


def test_a_run_with_scanned_blocks_resumes_to_the_same_bits(tmp_path):
  whole = jax.device_get(fit(build_run(SCANNED), tmp_path / "whole"))
  assert "blocks" in whole.params["stage2"]
  steps = iter(range(1, 100))
  run = build_run(SCANNED)
  fit(run, tmp_path / "stopped", should_stop=lambda: next(steps) == 7)
  resumed = jax.device_get(fit(run, tmp_path / "stopped"))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, whole)


def test_scanned_or_not_a_run_starts_the_same_saves_the_same_and_goes_on_as_the_other(tmp_path):
  unrolled = dataclasses.replace(
    SCANNED, model=ModelConfig("resnet20", SCANNED.model.overrides | {"scan": False})
  )
  runs = build_run(SCANNED), build_run(unrolled)
  start, other = (jax.device_get(to_stored(run, initial_state(run))) for run in runs)
  assert jax.tree.structure(start) == jax.tree.structure(other)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), start, other)

  fit(runs[0], tmp_path, should_stop=iter([False, False, True]).__next__)
  resumed = fit(build_run(dataclasses.replace(unrolled, length="4 steps")), tmp_path)
  assert resumed.step == 4
  straight = fit(build_run(dataclasses.replace(SCANNED, length="4 steps")), tmp_path / "straight")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    jax.device_get(to_stored(runs[0], straight)),
    jax.device_get(resumed),
  )


@pytest.mark.parametrize(
  "model",
  [
    ModelConfig("resnet20", CONFIG.model.overrides | {"norm": None, "use_bias": True}),
    ModelConfig("resnet20", CONFIG.model.overrides | {"addition": "dropout"}),
    ModelConfig("preact_resnet164", {"stage_sizes": (1, 1), "width": 4, "remat": True}),
    ModelConfig("vgg16", {"stage_sizes": (1, 1), "width": 4, "hidden_features": (8,)}),
  ],
  ids=["no norm", "dropout shortcut", "pre-activation", "vgg"],
)
def test_every_kind_of_network_trains_and_resumes_to_the_same_bits(model, tmp_path):
  config = dataclasses.replace(
    CONFIG, model=model, optimizer=OptimizerConfig(learning_rate=0.01), length="6 steps"
  )
  whole = jax.device_get(fit(build_run(config), tmp_path / "whole"))
  fit(build_run(config), tmp_path / "stopped", should_stop=iter([False, False, True]).__next__)
  resumed = jax.device_get(fit(build_run(config), tmp_path / "stopped"))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, whole)


def test_a_finished_run_that_is_started_again_changes_nothing(whole):
  workdir, state = whole
  before = records(workdir)
  again = jax.device_get(fit(build_run(CONFIG), workdir))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), again, state)
  assert records(workdir) == before


def test_a_longer_end_goes_on_from_the_last_step(tmp_path):
  short = dataclasses.replace(CONFIG, length="6 steps")
  fit(build_run(short), tmp_path)
  state = fit(build_run(dataclasses.replace(short, length="8 steps")), tmp_path)
  assert state.step == 8
  assert records(tmp_path)[-1]["step"] == 8


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
  wild = dataclasses.replace(
    CONFIG, optimizer=OptimizerConfig(learning_rate=1e30), length="20 steps", log_every="1 steps"
  )
  with pytest.raises(UserError, match="diverged"):
    fit(build_run(wild), tmp_path)
  assert all(np.isfinite(r["loss"]) for r in records(tmp_path))


def test_a_state_that_diverged_between_two_records_is_neither_evaluated_nor_saved(tmp_path):
  run = build_run(dataclasses.replace(CONFIG, length="20 steps", log_every="20 steps"))
  fit(run, tmp_path, should_stop=iter([False, True]).__next__)
  wild = run.schedule

  def schedule(step):
    return jnp.where(step < 6, wild(step), 1e30)

  run = dataclasses.replace(run, optimizer=make_optimizer(run.config.optimizer, schedule))
  with pytest.raises(UserError, match="diverged"):
    fit(run, tmp_path)
  checkpoints = Checkpoints(tmp_path, read_only=True)
  state, _ = checkpoints.restore(checkpoints.last(), abstract_state(run))
  assert state.step < 10
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_run_is_not_shortened(tmp_path):
  run = build_run(dataclasses.replace(CONFIG, length="6 steps"))
  fit(run, tmp_path)
  with pytest.raises(UserError, match="has done 6"):
    require_resumable(build_run(dataclasses.replace(CONFIG, length="5 steps")), tmp_path)
  require_resumable(run, tmp_path)


def test_without_a_validation_split_nothing_is_evaluated(tmp_path, monkeypatch):
  run = build_run(CONFIG)
  train_only = {"train": run.dataset.splits["train"]}
  run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, splits=train_only))
  fit(run, tmp_path)
  assert {r["split"] for r in records(tmp_path)} == {"train"}
