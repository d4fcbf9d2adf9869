"""Networks and the parts they are built of: pure Flax Linen, no other part of this package."""

from resnet_jax.models.additions import (
  Addition,
  DropoutAddition,
  GatedAddition,
  ScaledAddition,
  select_addition,
)
from resnet_jax.models.blocks import BasicBlock, Block, BottleneckBlock, Layer
from resnet_jax.models.catalog import (
  Network,
  cifar_fields,
  create,
  image_shape,
  names,
  preactivation_cifar_fields,
)
from resnet_jax.models.config import ModelConfig, configurable_fields
from resnet_jax.models.convolution import Conv
from resnet_jax.models.cost import Cost, cost
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.fully_convolutional import logits_of_windows
from resnet_jax.models.layouts import to_scanned, to_unrolled
from resnet_jax.models.normalization import BatchNorm, NoNorm, group_layout
from resnet_jax.models.pooling import (
  average_pool,
  global_average_pool,
  global_max_pool,
  max_pool,
)
from resnet_jax.models.residual import Residual
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.responses import responses
from resnet_jax.models.shortcuts import (
  IdentityShortcut,
  ProjectionShortcut,
  ZeroPadShortcut,
  select_shortcut,
)
from resnet_jax.models.squeeze_excitation import SqueezeExcitation
from resnet_jax.models.stages import Stage
from resnet_jax.models.stems import Stem
from resnet_jax.models.vgg import VGG, VGGStage

__all__ = [
  "VGG",
  "Addition",
  "BasicBlock",
  "BatchNorm",
  "Block",
  "BottleneckBlock",
  "Conv",
  "Cost",
  "DropoutAddition",
  "GatedAddition",
  "IdentityShortcut",
  "Layer",
  "ModelConfig",
  "Network",
  "NoNorm",
  "ProjectionShortcut",
  "ResNet",
  "Residual",
  "ScaledAddition",
  "SqueezeExcitation",
  "Stage",
  "Stem",
  "VGGStage",
  "ZeroPadShortcut",
  "average_pool",
  "cifar_fields",
  "configurable_fields",
  "cost",
  "create",
  "fold_batch_norm",
  "global_average_pool",
  "global_max_pool",
  "group_layout",
  "image_shape",
  "logits_of_windows",
  "max_pool",
  "names",
  "preactivation_cifar_fields",
  "responses",
  "select_addition",
  "select_shortcut",
  "to_scanned",
  "to_unrolled",
]
