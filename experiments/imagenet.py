"""ImageNet: the networks of the paper's Table 1 with its recipe (section 3.4).

  resnet-jax prepare imagenet2012 --data-dir DATA --manual-dir ARCHIVES
  resnet-jax train --config imagenet:resnet50 --workdir runs/resnet50 --config.data.data_dir=DATA
  resnet-jax evaluate --workdir runs/resnet50

The argument is a network of the catalog (resnet18, resnet34, resnet50, plain34, …) and, after a
comma:

  plateau  divides the rate when the validation error plateaus; else after 30 and 60 epochs
  lars     batches of 32,768 with LARS, for many accelerators: another recipe, not the paper's

Not trained in full yet. The paper's top-1 errors, ten crops: 24.52 % (resnet34), 22.85 (resnet50).

The paper divides the rate "when the error plateaus" and gives neither threshold nor patience. Those
of `plateau` are ours: more than 5 epochs in a row that are not better than the best by a thousandth
of it. The paper's successor (arXiv 1603.05027) divides after 30 and 60 epochs.

`lars` is a recipe for ResNet-50 of MLPerf Training, whose goal is 75.9 % top-1 (centre crop). Where
its numbers are from:

- Rate 29, reached in a line from 0 over 18 epochs, then by a polynomial of power 2 to 1e-4 at the
  end of 64; momentum 0.929; weight decay 1e-4; label smoothing 0.1; batch norm over no fewer than
  64 images; bfloat16: what Google's ResNet in JAX for MLPerf does from 32,768 to 65,535 images.
- Trust coefficient 0.001; neither decay nor LARS's ratio for biases and batch norm: that again, and
  LARS's own authors (arXiv 1708.03888), as are warm-up and power 2.
- Strides in the 3x3 convolutions, Inception's crops of at least 5 %, no colour noise, the mean
  colour: MLPerf's reference in TensorFlow. It takes no statistics that `prepare` would compute.

Otherwise than there, the norm that LARS divides by is that of g + d w, as optax has it, not the sum
of both norms; and initial weights and the resizing are those of this package.

Batch norm over 64 images is the same function on every slice: on 8 to 512 chips a group lies within
one and costs no communication, on 1,024 it spans two. Over the images of a chip it would be another
one on each slice; over all 32,768 every layer would wait for all chips.
"""

import dataclasses

from resnet_jax.data import DataConfig
from resnet_jax.data.config import InceptionCropConfig, StreamingConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import (
  CheckpointConfig,
  Config,
  OptimizerConfig,
  ScheduleConfig,
  WarmupConfig,
)

_OPTIONS = ("plateau", "lars")


def get_config(arg: str = "resnet50") -> Config:
  """The paper's recipe: 600,000 steps of 256 images, batch norm over 32 (8 GPUs); or LARS's."""
  network, *options = arg.split(",")
  for option in options:
    if option not in _OPTIONS:
      raise ValueError(f"unknown option {option!r}: there are {' and '.join(_OPTIONS)}")
  if len(options) > 1:
    raise ValueError(f"{' and '.join(options)} exclude each other")
  config = Config(
    model=ModelConfig(network),
    data=DataConfig("imagenet2012", mean="pixel"),
    schedule=ScheduleConfig(
      boundaries=("30 epochs", "60 epochs"), kind="plateau" if "plateau" in options else "stepwise"
    ),
    batch_size=256,
    bn_group=32,
    length="600000 steps",
    log_every="100 steps",
    evaluate_every="1 epochs",
    evaluation_batch_size=250,
  )
  return _large_batch(config) if "lars" in options else config


def _large_batch(config: Config) -> Config:
  """The same network with the recipe for batches of 32,768."""
  overrides = {"dtype": "bfloat16"}
  if getattr(config.model.create(), "block", None) == "bottleneck":
    overrides["stride_in"] = "3x3"
  crops = InceptionCropConfig(area_min=0.05)
  streaming = StreamingConfig(crop="inception", inception=crops, color_noise=0.0)
  return dataclasses.replace(
    config,
    model=ModelConfig(config.model.name, overrides),
    data=dataclasses.replace(config.data, mean=(123.68, 116.78, 103.94), streaming=streaming),
    optimizer=OptimizerConfig(
      learning_rate=29.0,
      momentum=0.929,
      weight_decay=1e-4,
      name="lars",
      undecayed=("*/scale", "*/bias"),
    ),
    schedule=ScheduleConfig(
      kind="polynomial",
      end_factor=1e-4 / 29,
      power=2.0,
      warmup=WarmupConfig("linear", factor=0.0, length="18 epochs"),
    ),
    batch_size=32768,
    bn_group=64,
    length="64 epochs",
    log_every="20 steps",
    evaluate_every="4 epochs",
    evaluation_batch_size=8192,
    checkpoint=CheckpointConfig(every="4 epochs"),
    label_smoothing=0.1,
  )
