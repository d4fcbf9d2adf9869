"""What a run is, in one typed, frozen record: the config that every experiment file returns."""

import dataclasses
from typing import Annotated

import msgspec

from resnet_jax.data.config import Count, DataConfig
from resnet_jax.models.config import ModelConfig

Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Stochastic gradient descent with momentum (paper, section 3.4).

  Attributes:
    learning_rate: At the start, before the schedule divides it.
    momentum: m in v = m v + g, w = w - rate v.
    nesterov: Whether to look ahead; the paper does not.
    weight_decay: L2 penalty, its gradient (weight_decay times w) added to that of the loss for all
      parameters, batch norm's included.
  """

  learning_rate: Positive = 0.1
  momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
  nesterov: bool = False
  weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-4


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """When the learning rate is multiplied by what.

  Attributes:
    boundaries: Durations from the start of training, such as "32000 steps" or "30 epochs".
    factor: What the rate is multiplied by at each.
  """

  boundaries: tuple[str, ...] = ("32000 steps", "48000 steps")
  factor: Positive = 0.1


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When the run is saved, and what of it is kept.

  Attributes:
    every: Duration between two saves, beside those that follow each evaluation.
    keep: How many of the latest checkpoints are kept; the one with the best validation accuracy is
      kept besides.
  """

  every: str = "10 epochs"
  keep: Count = 2


@dataclasses.dataclass(frozen=True)
class Config:
  """A training run.

  Durations are texts of a number and a unit: "64000 steps", "182 epochs", "8192000 examples".

  Attributes:
    model: The network.
    data: The data set and its views.
    optimizer: The optimizer.
    schedule: The learning rate over time.
    seed: From 0 to 2**32 - 1. Fixes the run: initialisation, order of the examples, augmentation.
    batch_size: Examples in a step, over all devices.
    bn_group: Examples that share batch-norm statistics, whatever device they are on: 32 is the
      paper's ImageNet training (256 on 8 GPUs), 64 its CIFAR training (128 on two); None for the
      whole batch.
    length: Duration of the training.
    log_every: Duration between two records of the training loss and accuracy.
    evaluate_every: Duration between two evaluations on the validation split.
    evaluation_batch_size: Examples in a step of evaluation, over all devices.
    checkpoint: When the run is saved.
  """

  model: ModelConfig = ModelConfig()
  data: DataConfig = DataConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  schedule: ScheduleConfig = ScheduleConfig()
  seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
  batch_size: Count = 128
  bn_group: Count | None = None
  length: str = "64000 steps"
  log_every: str = "100 steps"
  evaluate_every: str = "1 epochs"
  evaluation_batch_size: Count = 500
  checkpoint: CheckpointConfig = CheckpointConfig()


# What a run that resumes may change: devices and workers (which no config names), where the data
# lies and whether a bad record stops the run, how often it records and saves, a later end, and how
# the same network is compiled. All else would make it another run.
CHANGEABLE = (
  "data.data_dir",
  "data.prepared_dir",
  "data.streaming.decode_threads",
  "data.streaming.undecodable",
  "length",
  "log_every",
  "evaluate_every",
  "evaluation_batch_size",
  "checkpoint.every",
  "checkpoint.keep",
  "model.overrides.scan",
  "model.overrides.remat",
)
