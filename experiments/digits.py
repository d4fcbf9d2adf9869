"""ResNet-20 on scikit-learn's 8x8 digits: the demo.

  resnet-jax train --config digits --workdir runs/digits
  resnet-jax evaluate --workdir runs/digits --split test

Measured with seeds 0 to 4 on two CPU cores, 20 seconds a run (jax 0.10.2, float32): test accuracy
98.2 % in the mean, standard deviation 0.4, of 360 images. The recipe was chosen on the validation
split.
"""

from resnet_jax.data import DataConfig, ResidentConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import CheckpointConfig, Config, OptimizerConfig, ScheduleConfig


def get_config() -> Config:
  """The paper's CIFAR recipe, shortened, for pictures of 8x8 pixels: padded by 1 and not mirrored,
  ten times its weight decay, which the validation split preferred.
  """
  return Config(
    model=ModelConfig("resnet20"),
    data=DataConfig("digits", resident=ResidentConfig(padding=1, flip=False)),
    optimizer=OptimizerConfig(weight_decay=1e-3),
    schedule=ScheduleConfig(boundaries=("20 epochs", "26 epochs")),
    batch_size=64,
    length="30 epochs",
    log_every="1 epochs",
    evaluate_every="1 epochs",
    checkpoint=CheckpointConfig(every="10 epochs"),
  )
