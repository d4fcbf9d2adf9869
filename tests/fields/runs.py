"""The run that the rows vary, so small that it compiles in a second; and where it writes."""

import atexit
import functools
import pathlib
import shutil
import tempfile

from resnet_jax.data import DataConfig, ResidentConfig, SyntheticConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import CheckpointConfig, Config, OptimizerConfig, ScheduleConfig

# One 3x3 convolution, batch norm, ReLU, max-pooling, mean and classifier.
NETWORK = {"stage_sizes": (1,), "width": 2, "hidden_features": (), "head": "avg", "norm": "batch"}

# On four devices. Pixels are not augmented, so that a test knows what the network is shown.
BASE = Config(
  model=ModelConfig("vgg16", NETWORK),
  data=DataConfig(
    "synthetic",
    mean=(0.5, 0.5, 0.5),
    scale=255.0,
    resident=ResidentConfig(padding=0, flip=False),
    synthetic=SyntheticConfig(24, 8, image_size=4, num_classes=3),
  ),
  optimizer=OptimizerConfig(learning_rate=0.1),
  schedule=ScheduleConfig(kind="constant"),
  batch_size=8,
  length="12 steps",
  log_every="12 steps",
  evaluate_every="12 steps",
  evaluation_batch_size=8,
  checkpoint=CheckpointConfig(every="12 steps", keep=20),
)


@functools.cache
def scratch() -> pathlib.Path:
  """A folder of this process that is removed at its end."""
  folder = tempfile.mkdtemp(prefix="resnet_jax-fields-")
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return pathlib.Path(folder)


def new_folder() -> pathlib.Path:
  """An empty folder in it."""
  return pathlib.Path(tempfile.mkdtemp(dir=scratch()))
