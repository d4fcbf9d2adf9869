"""Schedules, optimizer, train state, train step and the loop around them."""

from resnet_jax.training import parameter_names, rates, schedules
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import (
  AdamConfig,
  CheckpointConfig,
  Config,
  LarsConfig,
  OptimizerConfig,
  PlateauConfig,
  ScheduleConfig,
  WarmupConfig,
)
from resnet_jax.training.loop import fit
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.state import TrainState, create_state
from resnet_jax.training.step import make_step

__all__ = [
  "AdamConfig",
  "CheckpointConfig",
  "Config",
  "LarsConfig",
  "OptimizerConfig",
  "PlateauConfig",
  "Run",
  "ScheduleConfig",
  "TrainState",
  "WarmupConfig",
  "build_run",
  "create_state",
  "fit",
  "make_optimizer",
  "make_step",
  "parameter_names",
  "rates",
  "schedules",
]
