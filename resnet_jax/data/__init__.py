"""Data sets, what a network is shown of them, and in which order."""

from resnet_jax.data import augment
from resnet_jax.data.config import DataConfig, ResidentConfig, StreamingConfig, SyntheticConfig
from resnet_jax.data.dataset import Dataset, Split, positions
from resnet_jax.data.feed import evaluation_batches, prefetch, training_batches
from resnet_jax.data.order import epoch_order, training_positions
from resnet_jax.data.resident import resident_dataset
from resnet_jax.data.sources import DATASETS, open_dataset

__all__ = [
  "DATASETS",
  "DataConfig",
  "Dataset",
  "ResidentConfig",
  "Split",
  "StreamingConfig",
  "SyntheticConfig",
  "augment",
  "epoch_order",
  "evaluation_batches",
  "open_dataset",
  "positions",
  "prefetch",
  "resident_dataset",
  "training_batches",
  "training_positions",
]
