"""Networks and the parts they are built of: pure Flax Linen, no other part of this package."""

from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, Stage
from resnet_jax.models.catalog import cifar_fields, create, names
from resnet_jax.models.config import ModelConfig, configurable_fields
from resnet_jax.models.cost import Cost, cost
from resnet_jax.models.layers import BatchNorm, Conv, global_average_pool, group_layout, max_pool
from resnet_jax.models.resnet import ResNet, Stem
from resnet_jax.models.shortcuts import IdentityShortcut, ProjectionShortcut, ZeroPadShortcut

__all__ = [
  "BasicBlock",
  "BatchNorm",
  "BottleneckBlock",
  "Conv",
  "Cost",
  "IdentityShortcut",
  "ModelConfig",
  "ProjectionShortcut",
  "ResNet",
  "Stage",
  "Stem",
  "ZeroPadShortcut",
  "cifar_fields",
  "configurable_fields",
  "cost",
  "create",
  "global_average_pool",
  "group_layout",
  "max_pool",
  "names",
]
