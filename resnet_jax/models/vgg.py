"""VGG networks (arXiv 1409.1556), the paper's baseline (Fig. 3 left, Tables 3 and 4)."""

import functools
from typing import Any

import jax
from flax import linen as nn

from resnet_jax.models.convolution import Conv, ConvPadding
from resnet_jax.models.factories import (
  Activation,
  ActivationName,
  ModuleFactory,
  activation_function,
)
from resnet_jax.models.fields import (
  check_choice,
  check_dtype,
  check_flag,
  check_fraction,
  check_images,
  check_integer,
  check_part,
  check_precision,
  check_sizes,
  set_checked,
)
from resnet_jax.models.heads import Pooling, dense, pool
from resnet_jax.models.normalization import NoNorm, NormName, check_norm, norm_factory


class VGG(nn.Module):
  """Stages of 3x3 convolutions, each ended by max-pooling, and a classifier of dense layers.

  Parameters are named stage1/conv1, …, hidden1, hidden2 and head.

  Attributes:
    stage_sizes: Number of convolutions in each stage; each stage halves the resolution.
    width: Channels of the first stage; each further one has twice as many, up to eight times.
    hidden_features: Channels of the dense layers before the last.
    dropout: Rate of dropout after each of them, in training, for which `apply` needs a `dropout`
      key; 0 for none.
    head: What the dense layers are given: the feature map flattened, as the original, or its mean
      (avg) or maximum (max). none for neither pooling nor dense layers nor classifier, whatever
      hidden_features, dropout and num_classes are: the output is the last feature map.
    num_classes: Number of classes; 0 for no classifier: the output is that of the layer before.
    use_bias: Whether convolutions have a bias.
    norm: None for none, as the original; batch (`BatchNorm`). From Python also a factory that takes
      `use_running_average`, `dtype`, `param_dtype` and `name`.
    bn_momentum: Weight of the past in the running statistics; None for the norm's own, 0.9.
    bn_epsilon: Added to the variance; None for the norm's own, 1e-5.
    frozen_bn: Whether batch norm uses its running statistics in training too.
    activation: The non-linearity, by name. From Python also a function.
    conv_padding: symmetric or same: see `Conv`.
    dtype: Of the computation; logits are float32 or wider.
    param_dtype: Of the parameters.
    remat: Whether the activations within a stage are computed again in the backward pass.
  """

  stage_sizes: tuple[int, ...]
  width: int = 64
  hidden_features: tuple[int, ...] = (4096, 4096)
  dropout: float = 0.5
  head: Pooling = "flatten"
  num_classes: int = 1000
  use_bias: bool = True
  norm: NormName | ModuleFactory | None = None
  bn_momentum: float | None = None
  bn_epsilon: float | None = None
  frozen_bn: bool = False
  activation: ActivationName | Activation = "relu"
  conv_padding: ConvPadding = "symmetric"
  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks all that can be checked before anything is traced."""
    set_checked(self, check_sizes, "stage_sizes")
    if self.hidden_features != ():
      set_checked(self, check_sizes, "hidden_features")
    set_checked(self, check_integer, "width", at_least=1)
    set_checked(self, check_integer, "num_classes", at_least=0)
    set_checked(self, check_choice, "head", choices=Pooling)
    set_checked(self, check_choice, "conv_padding", choices=ConvPadding)
    set_checked(self, check_fraction, "dropout", "bn_momentum", "bn_epsilon")
    set_checked(self, check_flag, "use_bias", "frozen_bn", "remat")
    set_checked(self, check_dtype, "dtype", "param_dtype")
    activation_function(self.activation)
    check_norm(self.norm, self.bn_momentum, self.bn_epsilon, self.frozen_bn)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False, return_features: bool = False) -> Any:
    """Logits of a batch of images; arguments, results and errors are those of `ResNet`.

    With head="flatten" all images have the size that the parameters were initialised for.
    """
    check_precision(dtype=self.dtype, param_dtype=self.param_dtype)
    check_images(images, 2 ** len(self.stage_sizes))
    dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    conv = functools.partial(Conv, use_bias=self.use_bias, padding=self.conv_padding, **dtypes)
    norm = norm_factory(
      self.norm,
      momentum=self.bn_momentum,
      epsilon=self.bn_epsilon,
      use_running_average=self.frozen_bn or not train,
      **dtypes,
    )
    activation = activation_function(self.activation)
    x, features = images, {}
    for i, size in enumerate(self.stage_sizes):
      channels = self.width * min(2**i, 8)
      name = f"stage{i + 1}"
      stage = VGGStage(size, channels, conv, norm, activation, name=name)
      features[name] = x = _rematerialised(stage, x) if self.remat else stage(x)
    output = pool(x, self.head)
    for i, channels in enumerate(self.hidden_features if self.head != "none" else ()):
      layer = dense(channels, self.dtype, self.param_dtype, f"hidden{i + 1}")
      output = nn.Dropout(self.dropout, deterministic=not train)(activation(layer(output)))
    if self.num_classes and self.head != "none":
      output = dense(self.num_classes, self.dtype, self.param_dtype, "head")(output)
    return (output, features) if return_features else output


class VGGStage(nn.Module):
  """3x3 convolutions of equal width, then 2x2 max-pooling of stride 2.

  Attributes:
    size: Number of convolutions.
    features: Output channels.
    conv: Convolution: `conv(features, kernel_size, name=…)`.
    norm: Normalisation after each: `norm(name=…)`.
    activation: After each normalisation.
  """

  size: int
  features: int
  conv: ModuleFactory = Conv
  norm: ModuleFactory = NoNorm
  activation: Activation = nn.relu

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H // 2, W // 2, features)."""
    parts = {"factories": ("conv", "norm"), "functions": ("activation",)}
    check_part(self, x, positive=("size", "features"), **parts)
    for i in range(1, self.size + 1):
      x = self.norm(name=f"norm{i}")(self.conv(self.features, 3, name=f"conv{i}")(x))
      x = self.activation(x)
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def _rematerialised(module: nn.Module, x: jax.Array) -> jax.Array:
  return nn.remat(lambda module, x: module(x))(module, x)
