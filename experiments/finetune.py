r"""Fine-tuning: weights of another library go on training on pictures of your own.

  resnet-jax convert --source torchvision --input resnet50.pth --model resnet50 --output WEIGHTS
  resnet-jax train --config finetune:WEIGHTS --workdir runs/mine \
    --config.data.data_dir=PICTURES --config.data.held_out=100
  resnet-jax predict --workdir runs/mine PICTURES/new

PICTURES holds train/CLASS/….jpg; held_out of them validate, where it has no val/CLASS. The network,
its strides and paddings, and what is done to pixels follow the weights; the classifier begins at
random. The argument is the directory of the weights and, after a comma:

  head       trains the classifier alone: all else, batch norm's statistics too, stays as it is
  frozen_bn  trains all parameters; batch norm keeps the statistics of the weights

Measured: 188 pictures of eight kinds (dogs, birds, vehicles, …), a ResNet-50 trained on ImageNet,
`head`, --config.length="6 epochs": 41 of 44 held-out pictures right (93 %; 25 % are dogs) after 100
seconds on two CPU cores. One run; the weights may have seen these pictures, under finer labels.
"""

import dataclasses

from resnet_jax.data import DataConfig, StreamingConfig
from resnet_jax.data.preprocessing import with_preprocessing
from resnet_jax.models import ModelConfig
from resnet_jax.training import Config, OptimizerConfig, ScheduleConfig
from resnet_jax.weights.directory import WeightsInfo, read_info, require_preprocessing
from resnet_jax.weights.plain_arrays import variable_shapes


def get_config(arg: str = "") -> Config:
  """Ten epochs of 32 images; a rate that falls by a cosine, smaller than from random weights."""
  directory, *options = arg.split(",")
  for option in options:
    if option not in ("head", "frozen_bn"):
      raise ValueError(f"unknown option {option!r}: there are head and frozen_bn")
  if not directory:
    raise ValueError("which weights? finetune:DIR, a directory that `resnet-jax convert` wrote")
  info = read_info(directory)
  data = with_preprocessing(
    DataConfig("folder", streaming=StreamingConfig(color_noise=0.0)),
    require_preprocessing(directory, info),
  )
  short_side = data.streaming.short_side_evaluation
  streaming = dataclasses.replace(
    data.streaming,
    # The paper's range of sizes, for views of any size.
    short_side_min=short_side,
    short_side_max=short_side * 480 // 256,
  )
  # The classes are those of the pictures.
  overrides = {key: value for key, value in info.model.overrides.items() if key != "num_classes"}
  if options:
    overrides["frozen_bn"] = True
  return Config(
    model=ModelConfig(info.model.name, overrides),
    data=dataclasses.replace(data, streaming=streaming),
    init_from=directory,
    reset=("head/*",),
    frozen=_all_but_head(info, data) if "head" in options else (),
    optimizer=OptimizerConfig(learning_rate=0.01),
    schedule=ScheduleConfig(kind="cosine"),
    batch_size=32,
    length="10 epochs",
    log_every="1 epochs",
    evaluate_every="1 epochs",
    evaluation_batch_size=32,
  )


def _all_but_head(info: WeightsInfo, data: DataConfig) -> tuple[str, ...]:
  size = data.streaming.image_size
  names = variable_shapes(info.create(), (size, size, len(data.mean)))
  parts = {name.split("/")[1] for name in names if name.startswith("params/")}
  return tuple(f"{part}/*" for part in sorted(parts - {"head"}))
