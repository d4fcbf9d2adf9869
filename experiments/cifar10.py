"""CIFAR-10: the 6n+2 layer networks of the paper's section 4.2 and Table 6.

  resnet-jax prepare cifar10 --data-dir DATA
  resnet-jax train --config cifar10:resnet20 --workdir runs/resnet20 --config.data.data_dir=DATA
  resnet-jax evaluate --workdir runs/resnet20 --split test

The argument is a network of the catalog (resnet20, resnet110, plain56, …) and, after commas:

  full   trains on all 50,000 images, as for Table 6; else the last 5,000 are held out for
         validation, the split on which the paper chose its schedule
  short  the schedule squeezed into 5 epochs, to see it work on a CPU

Measured: resnet20,short, seed 0, on two CPU cores (jax 0.10.2, float32, about 200 images/s, killed
once and resumed): test accuracy 76.8 %. The full recipe has not been run yet; the paper's test
errors are 8.75 % (resnet20), 7.51 (32), 7.17 (44), 6.97 (56), 6.43 (110), 7.93 (1202).

Warm-up: as in the paper, resnet110 starts at a rate of 0.01 until its training error, as a mean
over about 20 steps, is below 80 %; then 0.1. No other network has one.
"""

from resnet_jax.data import DataConfig, ResidentConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import Config, ScheduleConfig, WarmupConfig

OPTIONS = ("full", "short")


def get_config(arg: str = "resnet20") -> Config:
  """The paper's recipe: 64,000 steps of 128 images, the rate divided by 10 at 32,000 and 48,000."""
  network, *options = arg.split(",")
  for option in options:
    if option not in OPTIONS:
      raise ValueError(f"unknown option {option!r}: there are {' and '.join(OPTIONS)}")
  short = "short" in options
  return Config(
    model=ModelConfig(network),
    data=DataConfig(
      "cifar10",
      held_out=0 if "full" in options else 5000,
      mean="pixel",
      resident=ResidentConfig(padding=4, flip=True),
    ),
    schedule=ScheduleConfig(
      boundaries=("3 epochs", "4 epochs") if short else ("32000 steps", "48000 steps"),
      warmup=WarmupConfig("error" if network == "resnet110" else "none"),
    ),
    batch_size=128,
    bn_group=64,  # 128 images on two GPUs
    length="5 epochs" if short else "64000 steps",
    log_every="20 steps" if short else "100 steps",
    evaluate_every="1 epochs",
  )
