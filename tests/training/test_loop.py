"""The loop: what is recorded and saved when; a run that stops goes on to the same bits."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training import (
  CheckpointConfig,
  Config,
  OptimizerConfig,
  PlateauConfig,
  ScheduleConfig,
  WarmupConfig,
  fit,
)
from resnet_jax.training.build import build_run
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.restore import (
  abstract_state,
  initial_state,
  require_resumable,
  restore_variables,
  to_stored,
)

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
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


@pytest.mark.parametrize(
  "stop", [1, 7, *(pytest.param(stop, marks=pytest.mark.long) for stop in (4, 10))]
)
def test_a_run_that_was_stopped_ends_with_the_same_bits_and_records(stop, whole, tmp_path):
  workdir, state = whole
  run = build_run(CONFIG)
  fit(run, tmp_path, should_stop=stop.__eq__)
  assert Checkpoints(tmp_path, read_only=True).last() == stop
  resumed = jax.device_get(fit(run, tmp_path))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, state)
  assert records(tmp_path) == records(workdir)


def rates(workdir):
  return [r["learning_rate"] for r in records(workdir) if r["split"] == "train"]


# No evaluation but the first is better by a whole 1: each other one lowers the rate.
PLATEAU = dataclasses.replace(
  CONFIG,
  schedule=ScheduleConfig(
    kind="plateau",
    factor=0.5,
    plateau=PlateauConfig(patience=0, threshold=1.0, threshold_mode="absolute"),
  ),
  log_every="1 steps",
  evaluate_every="2 steps",
)


@pytest.fixture(scope="module")
def plateau(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("plateau")
  return workdir, jax.device_get(fit(build_run(PLATEAU), workdir))


def test_validation_that_does_not_improve_lowers_the_rate_of_the_next_step(plateau):
  shares = [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]
  np.testing.assert_allclose(rates(plateau[0]), 0.1 * np.array(shares), rtol=1e-6)


@pytest.mark.parametrize("metric", ["error", "loss"])
def test_the_plateau_rule_sees_the_metric_that_it_names(metric, tmp_path):
  rule = PlateauConfig(metric=metric, patience=0, threshold=0.0)
  schedule = dataclasses.replace(PLATEAU.schedule, plateau=rule)
  fit(build_run(dataclasses.replace(PLATEAU, schedule=schedule)), tmp_path)
  seen = [r for r in records(tmp_path) if r["split"] == "validation" and r["step"] % 2 == 0]
  best, share, expected = np.inf, 1.0, [1.0, 1.0]
  for record in seen:
    value = record["loss"] if metric == "loss" else 1 - record["accuracy"]
    share, best = (share, value) if value < best - 1e-7 else (share / 2, best)
    expected += [share, share]
  np.testing.assert_allclose(rates(tmp_path), 0.1 * np.array(expected[:11]), rtol=1e-6)


@pytest.mark.parametrize("stop", [3, pytest.param(6, marks=pytest.mark.long)])
def test_a_run_with_a_plateau_rule_resumes_to_the_same_bits(stop, plateau, tmp_path):
  run = build_run(PLATEAU)
  fit(run, tmp_path, should_stop=stop.__eq__)
  resumed = jax.device_get(fit(run, tmp_path))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, plateau[1])
  assert records(tmp_path) == records(plateau[0])


def test_the_evaluation_at_the_end_leaves_the_rule_as_a_longer_run_would(plateau, tmp_path):
  fit(build_run(dataclasses.replace(PLATEAU, length="5 steps")), tmp_path)
  longer = jax.device_get(fit(build_run(PLATEAU), tmp_path))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), longer, plateau[1])


def test_the_warm_up_ends_by_the_training_error_of_the_whole_batch(tmp_path):
  warmup = WarmupConfig("error", factor=0.25, error=0.7, error_examples=32)
  schedule = ScheduleConfig(kind="constant", warmup=warmup)
  # Two classes, so that the error falls at once below what random guesses of ten would have.
  data = DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8, num_classes=2))
  config = dataclasses.replace(PLATEAU, data=data, schedule=schedule)
  fit(build_run(config), tmp_path)
  average, expected = 1.0, []
  for record in (r for r in records(tmp_path) if r["split"] == "train"):
    if average >= 0.7:
      average = average / 2 + (1 - record["accuracy"]) / 2
    expected.append(0.1 if average < 0.7 else 0.025)
  assert set(expected) == {0.1, 0.025}
  np.testing.assert_allclose(rates(tmp_path), expected, rtol=1e-6)


SCANNED = dataclasses.replace(
  CONFIG, model=ModelConfig("resnet20", {"stage_sizes": (3,), "width": 4, "scan": True})
)


def test_scanned_or_not_a_run_starts_the_same_saves_the_same_and_goes_on_as_the_other(tmp_path):
  unrolled = dataclasses.replace(
    SCANNED, model=ModelConfig("resnet20", SCANNED.model.overrides | {"scan": False})
  )
  runs = build_run(SCANNED), build_run(unrolled)
  start, other = (jax.device_get(to_stored(run, initial_state(run))) for run in runs)
  assert jax.tree.structure(start) == jax.tree.structure(other)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), start, other)

  fit(runs[0], tmp_path, should_stop=(3).__eq__)
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
    # Without batch statistics; its classifier drops units.
    ModelConfig("vgg16", {"stage_sizes": (1, 1), "width": 4, "hidden_features": (8,)}),
    # Its state is stored in another layout than it is trained in.
    ModelConfig("preact_resnet164", {"stage_sizes": (3,), "width": 4, "scan": True, "remat": True}),
    ModelConfig("resnet20", CONFIG.model.overrides | {"addition": "dropout"}),
  ],
  ids=["vgg", "scanned pre-activation", "dropout shortcut"],
)
def test_every_kind_of_network_trains_and_resumes_to_the_same_bits(model, tmp_path):
  config = dataclasses.replace(
    CONFIG, model=model, optimizer=OptimizerConfig(learning_rate=0.01), length="6 steps"
  )
  run = build_run(config)
  whole = jax.device_get(fit(run, tmp_path / "whole"))
  assert ("blocks" in whole.params["stage1"]) is model.overrides.get("scan", False)
  fit(run, tmp_path / "stopped", should_stop=(3).__eq__)
  resumed = jax.device_get(fit(run, tmp_path / "stopped"))
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


def test_a_run_goes_on_from_the_checkpoint_before_one_that_is_damaged(whole, tmp_path, capsys):
  workdir, state = whole
  shutil.copytree(workdir, tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  (folder / "11" / "run.json").unlink()
  resumed = jax.device_get(fit(build_run(CONFIG), tmp_path / "run"))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), resumed, state)
  assert records(tmp_path / "run") == records(workdir)
  assert capsys.readouterr().err == (
    "checkpoint of step 11 is damaged (run.json: missing): moved to checkpoints/11.damaged; going "
    "on from step 10\n"
  )
  assert (folder / "11" / "run.json").exists()
  assert (folder / "11.damaged").is_dir()


def test_damage_is_not_passed_over_where_weights_are_asked_for(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "run")
  (tmp_path / "run" / "checkpoints" / "11" / "metrics.json").write_text("{}")
  run = build_run(CONFIG)
  for checkpoint in ("last", "11", "best"):
    with pytest.raises(UserError, match=r"11 is damaged \(metrics.json: .*; whole: .*10"):
      restore_variables(run, tmp_path / "run", checkpoint)
  assert restore_variables(run, tmp_path / "run", "10")[0] == 10


def test_the_weights_of_another_network_are_refused_by_name(whole):
  wider = ModelConfig("resnet20", CONFIG.model.overrides | {"width": 8})
  run = build_run(dataclasses.replace(CONFIG, model=wider))
  with pytest.raises(
    UserError, match=r"params/.* is float32\[4, 10\], not float32\[8, 10\].* more$"
  ):
    restore_variables(run, whole[0], "last")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
  wild = dataclasses.replace(
    CONFIG, optimizer=OptimizerConfig(learning_rate=1e30), length="20 steps", log_every="1 steps"
  )
  with pytest.raises(UserError, match="diverged"):
    fit(build_run(wild), tmp_path)
  assert all(np.isfinite(r["loss"]) for r in records(tmp_path))


def test_a_state_that_diverged_between_two_records_is_neither_evaluated_nor_saved(tmp_path):
  run = build_run(dataclasses.replace(CONFIG, length="20 steps", log_every="20 steps"))
  fit(run, tmp_path, should_stop=(2).__eq__)
  tame = run.learning_rate.schedule

  def schedule(step):
    return jnp.where(step < 6, tame(step), 1e30)

  run = dataclasses.replace(run, optimizer=make_optimizer(run.config.optimizer, schedule))
  with pytest.raises(UserError, match=r"diverged at step [78]:"):
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
