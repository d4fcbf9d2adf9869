"""Weights of other libraries: read, stored with all that using them takes, and written."""

from resnet_jax.weights.array_files import read_arrays
from resnet_jax.weights.convert import SOURCES, convert
from resnet_jax.weights.create import create
from resnet_jax.weights.directory import WeightsInfo, load_weights, save_weights
from resnet_jax.weights.plain_arrays import from_arrays
from resnet_jax.weights.preprocessing import Preprocessing
from resnet_jax.weights.torchvision import save_torchvision, to_torchvision

__all__ = [
  "SOURCES",
  "Preprocessing",
  "WeightsInfo",
  "convert",
  "create",
  "from_arrays",
  "load_weights",
  "read_arrays",
  "save_torchvision",
  "save_weights",
  "to_torchvision",
]
