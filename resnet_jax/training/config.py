"""What a run is, in one typed, frozen record: the config that every experiment file returns."""

import dataclasses
from typing import Annotated, Literal

import msgspec

from resnet_jax.data.config import Count, CountOrZero, DataConfig
from resnet_jax.models.config import ModelConfig

Positive = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


@dataclasses.dataclass(frozen=True)
class AdamConfig:
  """What AdamW (arXiv 1711.05101) needs beside rate and weight decay.

  Attributes:
    beta1: Weight of the past in the mean of gradients.
    beta2: Weight of the past in the mean of squared gradients.
    epsilon: Added to the root of the latter.
  """

  beta1: Fraction = 0.9
  beta2: Fraction = 0.999
  epsilon: Positive = 1e-8


@dataclasses.dataclass(frozen=True)
class LarsConfig:
  """What LARS (arXiv 1708.03888) needs beside rate, momentum and weight decay.

  Attributes:
    trust_coefficient: The layer's rate is this times the norm of its weights over that of its
      gradient.
    epsilon: Added to the norm of the gradient.
    exclude: Names of parameters, as patterns, that learn at the plain rate.
  """

  trust_coefficient: Positive = 0.001
  epsilon: NotNegative = 0.0
  exclude: tuple[str, ...] = ("*/scale", "*/bias")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """How a gradient becomes a step: the paper's SGD with momentum (section 3.4), or another.

  Parameters are named by their path, "stage1/block1/conv1/kernel"; in a pattern * stands for any
  text. A pattern that no parameter fits is an error.

  Attributes:
    learning_rate: At the start, before the schedule changes it.
    momentum: m in v = m v + g, w = w - rate v; of SGD and LARS.
    nesterov: Whether to look ahead; the paper does not.
    weight_decay: L2 penalty, its gradient (weight_decay times w) added to that of the loss for all
      parameters, batch norm's included.
    name: SGD with momentum, LARS for large batches, or AdamW.
    learning_rate_batch: The batch size that `learning_rate` is meant for: what is used is
      learning_rate times batch_size / this (arXiv 1706.02677). None: learning_rate as it stands.
    weight_decay_form: l2, in the gradient, or decoupled: w = w - rate (v + weight_decay w). None:
      l2, but decoupled for AdamW, which knows no other.
    undecayed: Names of parameters, as patterns, without weight decay: '*/scale' '*/bias' are those
      of batch norm and the biases, which the paper decays.
    clip_norm: Gradients with a larger norm over all parameters are scaled to it; None for never.
    adam: Settings of AdamW.
    lars: Settings of LARS.
  """

  learning_rate: Positive = 0.1
  momentum: Fraction = 0.9
  nesterov: bool = False
  weight_decay: NotNegative = 1e-4
  name: Literal["sgd", "lars", "adamw"] = "sgd"
  learning_rate_batch: Count | None = None
  weight_decay_form: Literal["l2", "decoupled"] | None = None
  undecayed: tuple[str, ...] = ()
  clip_norm: Positive | None = None
  adam: AdamConfig = AdamConfig()
  lars: LarsConfig = LarsConfig()


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
  """A lower learning rate at the start.

  Attributes:
    kind: none; linear, growing over a duration; or error: the paper's for ResNet-110 (section 4.2),
      low until the training error has fallen, then high at once.
    factor: The rate at the start is this times the one that it would be without.
    length: Duration of the linear one.
    error: Training error in [0, 1] at which the paper's ends, as a mean over about
      `error_examples`.
    error_examples: How many of the latest examples, about, the training error is a mean over.
  """

  kind: Literal["none", "linear", "error"] = "none"
  factor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
  length: str = "5 epochs"
  error: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
  error_examples: Count = 2560


@dataclasses.dataclass(frozen=True)
class PlateauConfig:
  """When a validation metric counts as not improving: judged once an evaluation.

  Attributes:
    metric: What should fall: error is 1 - accuracy.
    patience: Evaluations in a row without improvement that are let pass; the next one counts.
    threshold: How much lower than the best so far an improvement must be.
    threshold_mode: Whether `threshold` is a share of the best or a difference.
    cooldown: Evaluations after a reduction in which none is counted.
    minimum: The rate is not reduced below this share of `learning_rate`.
  """

  metric: Literal["error", "loss"] = "error"
  patience: CountOrZero = 5
  threshold: NotNegative = 1e-3
  threshold_mode: Literal["relative", "absolute"] = "relative"
  cooldown: CountOrZero = 0
  minimum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """The learning rate over time.

  Attributes:
    boundaries: Of stepwise: durations from the start of training, such as "32000 steps" or "30
      epochs".
    factor: What the rate is multiplied by at each boundary, or at each plateau.
    kind: stepwise; plateau, the paper's rule for ImageNet (section 3.4), lower when the validation
      error no longer falls; cosine (arXiv 1608.03983) or polynomial, from the end of a linear
      warm-up to `length`; or constant.
    length: Where cosine and polynomial end, from the start of training; None for the run's length,
      which can then not be changed when the run resumes.
    end_factor: Of cosine and polynomial: the last rate is this times the first.
    power: Of polynomial: 1 is a straight line.
    warmup: A lower rate at the start.
    plateau: Settings of plateau.
  """

  boundaries: tuple[str, ...] = ("32000 steps", "48000 steps")
  factor: Positive = 0.1
  kind: Literal["stepwise", "plateau", "cosine", "polynomial", "constant"] = "stepwise"
  length: str | None = None
  end_factor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
  power: Positive = 1.0
  warmup: WarmupConfig = WarmupConfig()
  plateau: PlateauConfig = PlateauConfig()


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When the run is saved, and what of it is kept.

  Attributes:
    every: Duration between two saves, beside those that follow each evaluation.
    keep: How many of the latest checkpoints are kept.
    keep_best: How many of those with the best validation metric are kept besides.
    metric: Which metric; those of the average weights need `ema_decay`.
  """

  every: str = "10 epochs"
  keep: Count = 2
  keep_best: CountOrZero = 1
  metric: Literal[
    "accuracy", "top5_accuracy", "loss", "ema_accuracy", "ema_top5_accuracy", "ema_loss"
  ] = "accuracy"


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """A window of steps whose trace is written to WORKDIR/profile, for TensorBoard or Perfetto.

  Attributes:
    start: Duration from the start of training; None for no trace.
    steps: Number of steps.
  """

  start: str | None = None
  steps: Count = 5


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
    accumulate: In how many parts, one after the other, a step's gradient is computed, to fit a
      batch into memory; with batch-norm groups that fit into a part, the same function.
    parallel: How the step is mapped over devices: by jax.pmap, or jax.jit of jax.shard_map.
    matmul_precision: Of float32 convolutions and matrix products where the hardware has faster ones
      (GPU, TPU): bfloat16 is the fastest, tensorfloat32 close to exact, float32 exact.
    label_smoothing: Share of the label's weight that is spread over all classes (arXiv 1512.00567).
    ema_decay: Weight of the past in an exponential moving average of parameters and batch
      statistics, which is evaluated beside them; it grows to this: after t steps it is at most
      (1 + t) / (10 + t). None for no average.
    init_from: Directory of another run whose weights this one starts from: DIR or DIR:last,
      DIR:best (by that run's checkpoint.metric) or DIR:STEP. Or a directory that resnet-jax convert
      wrote. None for random ones.
    reset: Names of parameters, as patterns, that start at random nevertheless: 'head/*'; and of
      those that only the other run has, which are left out.
    frozen: Names of parameters, as patterns, that are not trained; batch norm's statistics are
      frozen by model.frozen_bn.
    profile: Which steps a profile is taken of.
    wandb_project: Project of Weights & Biases that the metrics go to too; None for nowhere.
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
  accumulate: Count = 1
  parallel: Literal["pmap", "shard_map"] = "pmap"
  matmul_precision: Literal["bfloat16", "tensorfloat32", "float32"] = "tensorfloat32"
  label_smoothing: Fraction = 0.0
  ema_decay: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
  init_from: str | None = None
  reset: tuple[str, ...] = ()
  frozen: tuple[str, ...] = ()
  profile: ProfileConfig = ProfileConfig()
  wandb_project: str | None = None


# What a run that resumes may change: devices and workers (which no config names), where the data
# lies and whether a bad record stops the run, how often it records and saves, a later end, and how
# the same function is compiled. All else would make it another run.
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
  "checkpoint.keep_best",
  "checkpoint.metric",
  "model.overrides.scan",
  "model.overrides.remat",
  "accumulate",
  "parallel",
  "profile.start",
  "profile.steps",
  "wandb_project",
)


def with_data_dir(config: Config, data_dir: str | None) -> Config:
  """The config with its data elsewhere, if somewhere else is given."""
  if not data_dir:
    return config
  return dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir))


def changeable(config: Config) -> tuple[str, ...]:
  """The dotted paths of the fields in which a run that resumes may differ."""
  fixed = set()
  if config.schedule.kind in ("cosine", "polynomial") and not config.schedule.length:
    fixed.add("length")
  if config.schedule.kind == "plateau":  # which counts evaluations
    fixed.add("evaluate_every")
  return tuple(name for name in CHANGEABLE if name not in fixed)
