"""What stands before the first stage (Table 1, conv1 and the pooling of conv2_x; section 4.2)."""

from typing import Literal

import jax
from flax import linen as nn

from resnet_jax.models.convolution import Conv
from resnet_jax.models.factories import Activation, ModuleFactory
from resnet_jax.models.fields import check_choice, check_part
from resnet_jax.models.normalization import BatchNorm
from resnet_jax.models.pooling import POOL_PADDINGS, max_pool

StemName = Literal["imagenet", "cifar", "deep"]
STEM_STRIDES = {"imagenet": 4, "cifar": 1, "deep": 4}


class Stem(nn.Module):
  """Convolution, norm and activation, and for ImageNet max-pooling.

  Attributes:
    features: Output channels.
    kind: imagenet (7x7 convolution of stride 2, then 3x3 max-pooling of stride 2), cifar (3x3
      convolution) or deep (three 3x3 convolutions, the first of stride 2 and two half as wide,
      instead of the 7x7: ResNet-C and -D, arXiv 1812.01187).
    pool_padding: Before and after, of the max-pooling.
    conv: Convolution: `conv(features, kernel_size, stride, name=…)`.
    norm: Normalisation after each convolution: `norm(name=…)`.
    activation: After each normalisation.
  """

  features: int
  kind: StemName = "imagenet"
  pool_padding: tuple[int, int] = (0, 1)
  conv: ModuleFactory = Conv
  norm: ModuleFactory = BatchNorm
  activation: Activation = nn.relu

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H', W', features).

    For cifar H' = H. Else the convolution leaves h = ceil(H / 2) rows, and the pooling
    H' = (h + sum(pool_padding) - 3) // 2 + 1: h // 2 with the paper's padding, ceil(h / 2) with
    (1, 1), (h - 1) // 2 with (0, 0). W' likewise.
    """
    check_choice("kind", self.kind, StemName)
    check_choice("pool_padding", self.pool_padding, POOL_PADDINGS)
    parts = {"factories": ("conv", "norm"), "functions": ("activation",)}
    check_part(self, images, positive=("features",), **parts)
    if self.kind == "deep":
      half = self.features // 2
      x = self._layer(images, half, 3, 2, "1")
      x = self._layer(x, half, 3, 1, "2")
      x = self._layer(x, self.features, 3, 1, "3")
    elif self.kind == "imagenet":
      x = self._layer(images, self.features, 7, 2)
    else:
      return self._layer(images, self.features, 3, 1)
    return max_pool(x, self.pool_padding)

  def _layer(
    self, x: jax.Array, features: int, kernel_size: int, stride: int, number: str = ""
  ) -> jax.Array:
    x = self.conv(features, kernel_size, stride, name=f"conv{number}")(x)
    return self.activation(self.norm(name=f"norm{number}")(x))
