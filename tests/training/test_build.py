"""Everything that is wrong with a config is said before any long work starts."""

import dataclasses

import jax
import pytest

from resnet_jax import models
from resnet_jax.data import DataConfig, ResidentConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.training import (
  AdamConfig,
  CheckpointConfig,
  Config,
  LarsConfig,
  OptimizerConfig,
  PlateauConfig,
  ScheduleConfig,
  WarmupConfig,
  build,
)
from resnet_jax.training.build import build_run
from resnet_jax.training.config import ProfileConfig, changeable
from resnet_jax.training.dry_run import describe_run

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1, 1, 1), "width": 4}),
  data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8, num_classes=7)),
  batch_size=16,
  length="2.5 epochs",
)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"batch_size": 18}, ["batch_size=18", "4 device"]),
    ({"batch_size": 0}, ["batch_size", ">= 1"]),
    ({"seed": -1}, ["seed"]),
    ({"seed": 2**32}, ["seed"]),
    ({"evaluation_batch_size": 0}, ["evaluation_batch_size", ">= 1"]),
    ({"checkpoint": CheckpointConfig(keep=0)}, ["checkpoint.keep", ">= 1"]),
    ({"optimizer": OptimizerConfig(learning_rate=-0.1)}, ["optimizer.learning_rate", "> 0"]),
    ({"optimizer": OptimizerConfig(learning_rate=float("nan"))}, ["optimizer.learning_rate"]),
    ({"optimizer": OptimizerConfig(momentum=1.0)}, ["optimizer.momentum", "< 1"]),
    ({"data": DataConfig("digits", resident=ResidentConfig(-1))}, ["data.resident.padding"]),
    ({"data": DataConfig("digits", held_out=-1)}, ["data.held_out"]),
    ({"bn_group": 3}, ["bn_group=3", "4 examples"]),
    ({"bn_group": -4}, ["bn_group", ">= 1"]),
    ({"length": "12"}, ["length", "steps"]),
    ({"length": "0 steps"}, ["length"]),
    ({"log_every": "2 hours"}, ["log_every"]),
    ({"model": ModelConfig("resnet21")}, ["resnet21", "resnet20"]),
    ({"model": ModelConfig("resnet20", {"depth": 3})}, ["depth"]),
    ({"model": ModelConfig("resnet20", {"shortcut": "D"})}, ["shortcut", "'A'"]),
    ({"model": ModelConfig("resnet20", {"num_classes": 10})}, ["10", "7"]),
    ({"model": ModelConfig("resnet20", {"head": "none"})}, ["head", "avg"]),
    ({"model": ModelConfig("resnet20", {"num_classes": 0})}, ["0 outputs", "7 classes"]),
    ({"model": ModelConfig("resnet18")}, ["8x8 pixels", "at least 32x32"]),
    ({"schedule": ScheduleConfig(("2 epochs", "1 epochs"))}, ["boundaries"]),
    ({"model": ModelConfig("resnet20", {"dtype": "float64"})}, ["float64", "JAX_ENABLE_X64"]),
    ({"data": DataConfig("digits", resident=ResidentConfig(8))}, ["padding=8", "8x8"]),
    ({"data": DataConfig("cifar")}, ["cifar", "cifar10"]),
    ({"data": DataConfig("digits", held_out=5)}, ["held_out"]),
    ({"checkpoint": CheckpointConfig(metric="ema_loss")}, ["ema_loss", "ema_decay", "choose loss"]),
    ({"frozen": ("stem/*", "stage7/*")}, ["frozen", "'stage7/*'", "stage3/"]),
    ({"frozen": ("*",)}, ["frozen", "none is left"]),
    ({"reset": ("head/*",)}, ["reset", "init_from"]),
    ({"optimizer": OptimizerConfig(undecayed=("*/scales",))}, ["optimizer.undecayed", "*/scales"]),
    (
      {"optimizer": OptimizerConfig(name="lars", lars=LarsConfig(exclude=("bias",)))},
      ["optimizer.lars.exclude", "'bias'"],
    ),
    (
      {"optimizer": OptimizerConfig(name="adamw", weight_decay_form="l2")},
      ["weight_decay_form", "l2"],
    ),
    ({"optimizer": OptimizerConfig(name="adamw", nesterov=True)}, ["nesterov", "adamw"]),
    ({"optimizer": OptimizerConfig(adam=AdamConfig(beta1=0.5))}, ["adam.beta1=0.5", "sgd"]),
  ],
)
def test_a_mistake_is_named_with_what_is_allowed(change, words):
  assert jax.device_count() == 4
  with pytest.raises(UserError) as error:
    build_run(dataclasses.replace(CONFIG, **change))
  for word in words:
    assert word in str(error.value)


LINEAR = WarmupConfig("linear", length="4 steps")


@pytest.mark.parametrize(
  ("schedule", "words"),
  [
    (ScheduleConfig(("3 steps",), warmup=LINEAR), ["warmup.length", "boundaries", "step 3"]),
    (ScheduleConfig((), warmup=WarmupConfig("linear", length="6 steps")), ["warmup", "over after"]),
    (ScheduleConfig((), warmup=WarmupConfig("linear")), ["warmup.length='5 epochs'", "over"]),
    (ScheduleConfig(kind="cosine", length="4 steps", warmup=LINEAR), ["warmup", "schedule.length"]),
    (ScheduleConfig(kind="polynomial", length="3 steps", warmup=LINEAR), ["over after 3"]),
    (ScheduleConfig(kind="cosine", length="3"), ["schedule.length", "unit"]),
    (ScheduleConfig(kind="cosine", power=2.0), ["schedule.power=2.0", "polynomial"]),
    (ScheduleConfig(length="3 steps"), ["schedule.length", "stepwise", "cosine"]),
    (ScheduleConfig(plateau=PlateauConfig(patience=3)), ["plateau.patience=3", "stepwise"]),
    (ScheduleConfig(warmup=WarmupConfig(factor=0.5)), ["warmup.factor=0.5", "none", "linear"]),
    (ScheduleConfig(warmup=WarmupConfig("linear", error=0.5)), ["warmup.error=0.5", "error"]),
    (ScheduleConfig(kind="plateau", factor=1.0), ["schedule.factor=1.0", "less than 1"]),
    (ScheduleConfig(kind="plateau", plateau=PlateauConfig(threshold=1.0)), ["threshold=1.0"]),
  ],
)
def test_a_schedule_that_cannot_be_or_a_setting_without_meaning_is_named(schedule, words):
  with pytest.raises(UserError) as error:
    build_run(dataclasses.replace(CONFIG, schedule=schedule))
  for word in words:
    assert word in str(error.value)


def test_a_plateau_rule_without_a_validation_split_is_refused(monkeypatch):
  whole = build_run(CONFIG).dataset
  train_only = dataclasses.replace(whole, splits={"train": whole.splits["train"]})
  monkeypatch.setattr(build, "open_dataset", lambda *_: train_only)
  with pytest.raises(UserError, match=r"plateau.*no validation split"):
    build_run(dataclasses.replace(CONFIG, schedule=ScheduleConfig(kind="plateau")))


@pytest.mark.parametrize(
  "change",
  [
    {"checkpoint": CheckpointConfig(metric="ema_loss")},
    {"batch_size": 18},
    {"profile": ProfileConfig(start="900 steps")},
  ],
)
def test_what_a_run_lacks_to_be_trained_does_not_keep_it_from_being_measured(change):
  config = dataclasses.replace(CONFIG, **change)
  with pytest.raises(UserError):
    build_run(config)
  assert build_run(config, trains=False).config == config


@pytest.mark.parametrize(
  ("schedule", "words"),
  [
    (ScheduleConfig(("2 steps", "1200 steps")), "0.4 (0.1 x 16/4), x 0.1 at steps 2 and 1,200"),
    (ScheduleConfig(()), "0.4 (0.1 x 16/4), constant"),
    (
      ScheduleConfig(kind="cosine", end_factor=0.01, warmup=WarmupConfig("linear", 0, "2 steps")),
      "0.4 (0.1 x 16/4), by a cosine to 0.004 at step 6, linear warm-up from 0 over 2 steps",
    ),
    (
      ScheduleConfig(kind="plateau", warmup=WarmupConfig("error")),
      "0.4 (0.1 x 16/4), x 0.1 after more than 5 evaluations in a row without a lower validation "
      "error, warm-up at 0.04 until the training error is below 0.8",
    ),
  ],
)
def test_the_learning_rate_is_told_in_words(schedule, words):
  optimizer = OptimizerConfig(learning_rate_batch=4)
  run = build_run(dataclasses.replace(CONFIG, optimizer=optimizer, schedule=schedule))
  assert run.learning_rate.words == words


def test_the_rate_grows_with_the_batch_that_it_is_not_meant_for():
  config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate_batch=64))
  assert float(build_run(config).learning_rate.schedule(0)) == pytest.approx(0.025)


def test_the_warm_up_s_error_is_a_mean_over_its_examples_in_steps_of_the_batch():
  schedule = ScheduleConfig(warmup=WarmupConfig("error", error_examples=160))
  run = build_run(dataclasses.replace(CONFIG, schedule=schedule))
  assert run.learning_rate.warmup.steps == 10


def test_what_lars_excludes_by_default_need_not_be_there():
  network = ModelConfig("resnet20", CONFIG.model.overrides | {"norm": None})
  build_run(dataclasses.replace(CONFIG, model=network, optimizer=OptimizerConfig(name="lars")))


def test_what_a_schedule_depends_on_does_not_change_when_the_run_resumes():
  def allowed(schedule):
    return set(changeable(dataclasses.replace(CONFIG, schedule=schedule)))

  assert {"length", "evaluate_every"} <= allowed(ScheduleConfig())
  assert allowed(ScheduleConfig()) - allowed(ScheduleConfig(kind="cosine")) == {"length"}
  assert "length" in allowed(ScheduleConfig(kind="cosine", length="9 steps"))
  assert allowed(ScheduleConfig()) - allowed(ScheduleConfig(kind="plateau")) == {"evaluate_every"}


def test_durations_are_in_examples_of_the_training_split():
  run = build_run(CONFIG)
  assert run.steps == round(2.5 * 40 / 16)
  assert run.evaluate_every == round(40 / 16)


def test_the_network_has_the_classes_of_the_data_set():
  assert build_run(CONFIG).model.num_classes == 7


def test_a_dry_run_tells_parameters_memory_steps_examples_and_checkpoint_size():
  small = ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4})
  run = build_run(dataclasses.replace(CONFIG, model=small))
  text = describe_run(run)
  counted = models.cost(run.model, (8, 8, 3)).params
  assert f"{counted:,} parameters" in text
  rate = "  0.1, x 0.1 at steps 32,000 and 48,000"
  for words in ("6 steps", "96 examples", "checkpoint", "temporary", "4 x cpu", rate):
    assert words in text
  assert '"batch_size": 16' in text
