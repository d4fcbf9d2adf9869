"""The convolution that every network here is built of, and its initialisation."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.cpu_convolution import Window, convolve, convolve_on_cpu
from resnet_jax.models.fields import check_choice, check_part
from resnet_jax.models.platforms import by_platform

# He initialisation (arXiv 1502.01852, eq. 10 and 14): normal, variance 2 / fan. Over fan-out for
# convolutions, as the authors' and fb.resnet.torch's nets; the classifier, whose fan-out is the
# number of classes, over fan-in.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

ConvPadding = Literal["symmetric", "same"]


class Conv(nn.Module):
  """2-D convolution, He initialised, whose output has ceil(input / stride) rows and columns.

  Attributes:
    features: Output channels.
    kernel_size: Height and width k of the kernel, odd.
    stride: Stride in both directions.
    dilation: Distance between the taps of the kernel.
    groups: Number of groups that input and output channels are divided into (ResNeXt).
    use_bias: Whether to add a bias (features,).
    padding: symmetric: dilation * (k // 2) on all four sides at every stride, as in Caffe and
      PyTorch. same: XLA's and TensorFlow's, which at stride 2 gives the same shapes and shifted
      outputs.
    dtype: Of the computation and the output; None for the promotion of input and parameters.
    param_dtype: Of the kernel (k, k, input channels / groups, features) and the bias.
  """

  features: int
  kernel_size: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = False
  padding: ConvPadding = "symmetric"
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features).

    Raises:
      ValueError: An attribute has no such value, or the input not the channels of the kernel.
    """
    self._check(x)
    shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param("kernel", he_fan_out, shape, self.param_dtype)
    bias = None
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype)
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    pad = self.dilation * (self.kernel_size // 2)
    padding = "SAME" if self.padding == "same" else ((pad, pad), (pad, pad))
    window = Window(self.stride, padding, self.dilation, self.groups)
    y = by_platform(
      x,
      kernel,
      cpu=functools.partial(convolve_on_cpu, window=window),
      default=functools.partial(convolve, window=window),
    )
    return y if bias is None else y + bias

  def _check(self, x: jax.Array) -> None:
    positive = ("features", "kernel_size", "stride", "dilation", "groups")
    check_part(self, x, positive=positive)
    check_choice("padding", self.padding, ConvPadding)
    shape = x.shape
    if self.kernel_size % 2 == 0:
      raise ValueError(f"kernel_size={self.kernel_size}: symmetric padding needs an odd one")
    if shape[-1] % self.groups or self.features % self.groups:
      raise ValueError(
        f"groups={self.groups}: they must divide the {shape[-1]} input and the {self.features} "
        "output channels"
      )
    if self.has_variable("params", "kernel"):
      channels = self.get_variable("params", "kernel").shape[2] * self.groups
      if channels != shape[-1]:
        raise ValueError(
          f"input of shape {shape} has {shape[-1]} channels: the kernel of "
          f"{'/'.join(self.path) or 'this convolution'} takes {channels}"
        )
