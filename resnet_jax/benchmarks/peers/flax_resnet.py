"""A residual network of stock Linen layers, in the style of Flax's ImageNet example."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.benchmarks.peers.task import PeerTask


class FlaxBlock(nn.Module):
  """A residual block: two 3x3 convolutions or a bottleneck, and a shortcut.

  Attributes:
    features: Channels of the 3x3 convolutions.
    stride: Stride of the block.
    bottleneck: Whether it is a bottleneck, which has four times as many output channels.
    zero_pad: Whether the shortcut pads missing channels with zeros (option A) or projects (B).
    conv: Convolution without bias, in the network's dtype.
    norm: Batch norm, in the network's dtype.
  """

  features: int
  stride: int
  bottleneck: bool
  zero_pad: bool
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (N, H, W, C) to (N, H / stride, W / stride, features or four times as many)."""
    strides = (self.stride, self.stride)
    if self.bottleneck:
      out = 4 * self.features
      y = nn.relu(self.norm()(self.conv(self.features, (1, 1))(x)))
      y = nn.relu(self.norm()(self.conv(self.features, (3, 3), strides)(y)))
      y = self.norm()(self.conv(out, (1, 1))(y))
    else:
      out = self.features
      y = nn.relu(self.norm()(self.conv(out, (3, 3), strides)(x)))
      y = self.norm()(self.conv(out, (3, 3))(y))
    if x.shape != y.shape:
      if self.zero_pad:
        missing = out - x.shape[-1]
        x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, missing)))
      else:
        x = self.norm()(self.conv(out, (1, 1), strides)(x))
    return nn.relu(x + y)


class FlaxResNet(nn.Module):
  """A residual network: stem, stages, mean over positions, classifier.

  Attributes:
    task: Its structure and dtype.
  """

  task: PeerTask

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (N, H, W, 3) to logits (N, num_classes), float32."""
    task, dtype = self.task, jnp.dtype(self.task.dtype)
    conv = functools.partial(nn.Conv, use_bias=False, dtype=dtype)
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype
    )
    if task.cifar:
      x = nn.relu(norm()(conv(task.width, (3, 3))(x)))
    else:
      x = nn.relu(norm()(conv(task.width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
      x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
    for i, size in enumerate(task.stage_sizes):
      for j in range(size):
        stride = 2 if i and not j else 1
        zero_pad = task.shortcut == "A"
        x = FlaxBlock(task.width * 2**i, stride, task.bottleneck, zero_pad, conv, norm)(x)
    x = nn.Dense(task.num_classes, dtype=dtype)(x.mean(axis=(1, 2)))
    return x.astype(jnp.float32)
