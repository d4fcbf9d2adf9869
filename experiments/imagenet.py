"""ImageNet: the networks of the paper's Table 1 with its recipe (section 3.4).

  resnet-jax prepare imagenet2012 --data-dir DATA --manual-dir ARCHIVES
  resnet-jax train --config imagenet:resnet50 --workdir runs/resnet50 --config.data.data_dir=DATA
  resnet-jax evaluate --workdir runs/resnet50

The argument is a network of the catalog (resnet18, resnet34, resnet50, plain34, …) and, after a
comma:

  plateau  divides the rate when the validation error plateaus; else after 30 and 60 epochs

Not trained in full yet. The paper's top-1 errors, ten crops: 24.52 % (resnet34), 22.85 (resnet50).

The paper divides the rate "when the error plateaus" and gives neither threshold nor patience. Those
of `plateau` are ours: more than 5 epochs in a row that are not better than the best by a thousandth
of it. The paper's successor (arXiv 1603.05027) divides after 30 and 60 epochs.
"""

from resnet_jax.data import DataConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import Config, ScheduleConfig


def get_config(arg: str = "resnet50") -> Config:
  """The paper's recipe: 600,000 steps of 256 images, batch norm over 32 (8 GPUs)."""
  network, *options = arg.split(",")
  for option in options:
    if option != "plateau":
      raise ValueError(f"unknown option {option!r}: there is plateau")
  return Config(
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
