"""Weights of other libraries: read, stored with what using them takes, written; programs."""

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.weights.array_files import read_arrays
from resnet_jax.weights.class_offset import without_offset
from resnet_jax.weights.convert import SOURCES, convert
from resnet_jax.weights.create import create
from resnet_jax.weights.directory import WeightsInfo, load_weights, save_weights
from resnet_jax.weights.plain_arrays import from_arrays
from resnet_jax.weights.program import export_network
from resnet_jax.weights.stablehlo import ExportInfo, is_export, load_export, save_export
from resnet_jax.weights.torchvision import save_torchvision, to_torchvision

__all__ = [
  "SOURCES",
  "ExportInfo",
  "Preprocessing",
  "WeightsInfo",
  "convert",
  "create",
  "export_network",
  "from_arrays",
  "is_export",
  "load_export",
  "load_weights",
  "read_arrays",
  "save_export",
  "save_torchvision",
  "save_weights",
  "to_torchvision",
  "without_offset",
]
