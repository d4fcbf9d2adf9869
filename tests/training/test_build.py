"""Everything that is wrong with a config is said before any long work starts."""

import dataclasses

import jax
import pytest

from resnet_jax import models
from resnet_jax.data import DataConfig, ResidentConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.training import CheckpointConfig, Config, OptimizerConfig, ScheduleConfig
from resnet_jax.training.build import build_run
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
  ],
)
def test_a_mistake_is_named_with_what_is_allowed(change, words):
  assert jax.device_count() == 4
  with pytest.raises(UserError) as error:
    build_run(dataclasses.replace(CONFIG, **change))
  for word in words:
    assert word in str(error.value)


def test_durations_are_in_examples_of_the_training_split():
  run = build_run(CONFIG)
  assert run.steps == round(2.5 * 40 / 16)
  assert run.evaluate_every == round(40 / 16)


def test_the_network_has_the_classes_of_the_data_set():
  assert build_run(CONFIG).model.num_classes == 7


def test_a_dry_run_tells_parameters_memory_steps_examples_and_checkpoint_size():
  text = describe_run(build_run(CONFIG))
  counted = models.cost(build_run(CONFIG).model, (8, 8, 3)).params
  assert f"{counted:,} parameters" in text
  for words in ("6 steps", "96 examples", "checkpoint", "temporary", "4 x cpu"):
    assert words in text
  assert '"batch_size": 16' in text
