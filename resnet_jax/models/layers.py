"""The layers that every network here is built of: convolution, batch norm, pooling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

# A class or partial of a Linen module: called with the fields still open, it gives the module.
ModuleFactory = Callable[..., nn.Module]
Activation = Callable[[jax.Array], jax.Array]

# He initialisation (arXiv 1502.01852, eq. 10 and 14): normal, variance 2 / fan. Over fan-out for
# convolutions, as the authors' and fb.resnet.torch's nets; the classifier, whose fan-out is the
# number of classes, over fan-in.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
  """2-D convolution without bias, padded by k // 2 on all four sides, He initialised.

  Padding is symmetric at every stride, as in Caffe and PyTorch. XLA's `SAME` is not at stride 2: it
  gives the same shapes and shifted outputs.

  Attributes:
    features: Output channels.
    kernel_size: Height and width k of the kernel, odd.
    stride: Stride in both directions.
    dtype: Of the computation and the output; None for the promotion of input and parameters.
    param_dtype: Of the kernel (k, k, input channels, features).
  """

  features: int
  kernel_size: int
  stride: int = 1
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features)."""
    if self.kernel_size % 2 == 0:
      raise ValueError(f"kernel_size={self.kernel_size}: symmetric padding needs an odd one")
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", he_fan_out, shape, self.param_dtype)
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    pad = self.kernel_size // 2
    return lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(self.stride, self.stride),
      padding=((pad, pad), (pad, pad)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class BatchNorm(nn.Module):
  """Batch normalisation (arXiv 1502.03167) over groups of examples, wherever they lie.

  The statistics that normalise an example are those of its group: `group` consecutive examples of
  the global batch. A group smaller than a device's share is a part of it; a larger one spans
  devices, whose statistics are then averaged. So the function is the same on any number of devices.
  Parameters and statistics have the names and shapes of `flax.linen.BatchNorm`.

  Mean and variance (biased) are computed in float32 or wider. Running statistics are means over all
  groups: `running = momentum * running + (1 - momentum) * batch`.

  Attributes:
    use_running_average: Normalise by the running statistics (evaluation) instead of the batch's.
    axis_name: Name of the mapped axis (`jax.pmap`, `jax.shard_map`) over whose devices the batch is
      spread in order, or None if the whole batch is at hand.
    group: Examples in a group; None for the whole global batch.
    momentum: Weight of the past in the running statistics (the complement of PyTorch's).
    epsilon: Added to the variance.
    dtype: Of the output; None for the input's.
    param_dtype: Of scale and bias, each of shape (C,); the running statistics, of the same shape,
      are float32 or wider.
    scale_init: Initialiser of the scale.
  """

  use_running_average: bool = False
  axis_name: str | None = None
  group: int | None = None
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = None
  param_dtype: Any = jnp.float32
  scale_init: Callable[..., Any] = nn.initializers.ones_init()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, …, C) -> (N, …, C).

    Raises:
      ValueError: The groups do not divide the batch, or a device's share the groups.
    """
    shape = (x.shape[-1],)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    stats_dtype = jnp.promote_types(self.param_dtype, jnp.float32)
    scale = self.param("scale", self.scale_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros_init(), shape, self.param_dtype)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stats_dtype)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, stats_dtype)

    if self.use_running_average:
      grouped, mean, var = x.astype(wide), running_mean.value, running_var.value
    else:
      # While initialising no axis is bound, and the example input has any number of examples.
      axis_name, group = (None, None) if self.is_initializing() else (self.axis_name, self.group)
      devices = 1 if axis_name is None else lax.axis_size(axis_name)
      groups, span = group_layout(x.shape[0], group, devices)
      grouped = x.astype(wide).reshape((groups, x.shape[0] // groups, *x.shape[1:]))
      axes = tuple(range(1, grouped.ndim - 1))
      mean = grouped.mean(axes, keepdims=True)
      square = jnp.square(grouped).mean(axes, keepdims=True)
      if span > 1:
        peers = [list(range(first, first + span)) for first in range(0, devices, span)]
        mean, square = lax.pmean((mean, square), axis_name, axis_index_groups=peers)
      var = jnp.maximum(square - jnp.square(mean), 0)
      if not self.is_initializing():
        batch_mean, batch_var = (s.reshape(groups, -1).mean(0) for s in (mean, var))
        if devices > span:
          batch_mean, batch_var = lax.pmean((batch_mean, batch_var), axis_name)
        for running, batch in ((running_mean, batch_mean), (running_var, batch_var)):
          value = self.momentum * running.value + (1 - self.momentum) * batch
          running.value = value.astype(running.value.dtype)

    y = (grouped - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
    return y.reshape(x.shape).astype(self.dtype or x.dtype)


def group_layout(examples: int, group: int | None, devices: int = 1) -> tuple[int, int]:
  """How the groups of a batch norm lie on devices.

  Args:
    examples: Examples of the batch on each device.
    group: Examples in a group; None for the whole global batch.
    devices: Number of devices that share the batch.

  Returns:
    The groups that a device holds a part of, and the consecutive devices that share a group: one of
    the two is 1.

  Raises:
    ValueError: The groups do not divide the batch, or a device's share of it.
  """
  group = examples * devices if group is None else group
  if group < 1:
    raise ValueError(f"batch norm in groups of {group} examples: expected at least 1")
  if examples % group == 0:
    return examples // group, 1
  if group % examples == 0 and (examples * devices) % group == 0:
    return 1, group // examples
  raise ValueError(
    f"batch norm in groups of {group} examples does not fit {examples} examples on each of "
    f"{devices} device(s): the group must divide a device's share, or be a multiple of the share "
    "that divides the whole batch"
  )


def max_pool(x: jax.Array, padding: tuple[int, int] = (0, 1)) -> jax.Array:
  """The stem's 3x3 max-pooling of stride 2; what is padded never wins.

  Args:
    x: (N, H, W, C).
    padding: Rows above and below, and columns left and right. Caffe's, so the paper's, is (0, 1);
      PyTorch's (1, 1).
  """
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=(padding, padding))


def global_average_pool(x: jax.Array) -> jax.Array:
  """(N, H, W, C) -> (N, C), float32 or wider: the mean over all positions."""
  return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
