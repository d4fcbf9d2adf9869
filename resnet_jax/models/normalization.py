"""Batch normalisation over groups of examples, and its absence."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resnet_jax.models.factories import ModuleFactory
from resnet_jax.models.fields import check_fraction, said

NormName = Literal["batch"]
_NORM_EXAMPLE = "norm=lambda use_running_average, **rest: nn.GroupNorm(num_groups=8, **rest)"


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
      ValueError: The groups do not divide the batch, or a device's share the groups; no axis is
        called `axis_name` here; momentum or epsilon is not in [0, 1).
    """
    check_fraction("momentum", self.momentum)
    check_fraction("epsilon", self.epsilon)
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
      devices = 1 if axis_name is None else _bound_axis_size(axis_name)
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


def _bound_axis_size(axis_name: str) -> int:
  try:
    return lax.axis_size(axis_name)
  except NameError:
    raise ValueError(
      f"axis_name={axis_name!r}: batch norm finds no axis of that name here; train under "
      f"jax.pmap or jax.vmap with axis_name={axis_name!r} or a jax.shard_map over it, or leave "
      "axis_name None"
    ) from None


class NoNorm(nn.Module):
  """The identity where a normalisation could stand, for networks without."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, …, C), unchanged."""
    return x


def check_norm(
  norm: NormName | ModuleFactory | None,
  momentum: float | None,
  epsilon: float | None,
  frozen: bool,
) -> None:
  """Raises a ValueError unless the fields of a network that concern its norms fit together."""
  if norm is not None and norm != "batch" and (not callable(norm) or isinstance(norm, nn.Module)):
    raise ValueError(
      f"norm={said(norm)}: expected 'batch', None, or a factory of modules, such as {_NORM_EXAMPLE}"
    )
  for name, value in (("bn_momentum", momentum), ("bn_epsilon", epsilon), ("frozen_bn", frozen)):
    if norm is None and value not in (None, False):
      raise ValueError(f"{name}={value!r}: with norm=None there is no batch norm")


def norm_factory(
  norm: NormName | ModuleFactory | None,
  *,
  momentum: float | None = None,
  epsilon: float | None = None,
  **settings: Any,
) -> ModuleFactory:
  """The factory, taking `name`, of the norms of a network.

  Args:
    norm: batch, None for none, or a factory.
    momentum: Passed on unless None.
    epsilon: Passed on unless None.
    **settings: Passed on.
  """
  if norm is None:
    return NoNorm
  chosen = {"momentum": momentum, "epsilon": epsilon}
  settings |= {name: value for name, value in chosen.items() if value is not None}
  if norm == "batch":
    return functools.partial(BatchNorm, **settings)

  def make(**more: Any) -> nn.Module:
    arguments = settings | more
    try:
      return norm(**arguments)
    except TypeError as error:
      raise ValueError(
        f"norm={said(norm)}: it is called with {', '.join(arguments)}, which "
        f"failed: {error}; a norm that takes less is {_NORM_EXAMPLE}"
      ) from error

  return make
