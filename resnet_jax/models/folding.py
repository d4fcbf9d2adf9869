"""Folding of batch norm into the preceding convolutions, as is usual before deployment."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from resnet_jax.models.catalog import Network
from resnet_jax.models.normalization import BatchNorm

# Orders in which a convolution precedes every norm.
_FOLDABLE_ORDERS = ("original", "relu_before_addition", "relu_only_preactivation")


def fold_batch_norm(model: Network, variables: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
  """Folds the running statistics, scales and biases of batch norms into the convolutions.

  In evaluation, batch norm is an affine map of each channel, so it merges with the preceding
  convolution to one convolution with a bias. The new network has no norms, and the same outputs as
  `model.apply(variables, images, train=False)` up to rounding. It is for inference: training it
  would differ from training `model`.

  Args:
    model: A `ResNet` or `VGG` with batch norm.
    variables: Its `params` and `batch_stats`, in either layout (unrolled or scanned).

  Returns:
    The network without norms and with biases, and its `params`; kernels and biases are computed in
    float32 or wider and have the dtypes of the old kernels.

  Raises:
    ValueError: The network has no batch norm, or norms that no convolution precedes (as in
      pre-activation networks), or the variables have no running statistics.
  """
  norm = model.norm
  kind = norm.func if isinstance(norm, functools.partial) else norm
  if kind != "batch" and kind is not BatchNorm:
    raise ValueError(f"norm={model.norm!r}: only batch norm can be folded into convolutions")
  order = getattr(model, "order", "original")
  if order not in _FOLDABLE_ORDERS:
    raise ValueError(
      f"order={order!r}: not every batch norm follows a convolution, so they cannot be folded; "
      f"they can with one of {_FOLDABLE_ORDERS}"
    )
  if "batch_stats" not in variables:
    raise ValueError("variables has no batch_stats: pass those of the trained network")
  epsilon = model.bn_epsilon
  if epsilon is None:
    settings = norm.keywords if isinstance(norm, functools.partial) else {}
    epsilon = settings.get("epsilon", BatchNorm.epsilon)
  neutral: dict[str, Any] = {"bn_momentum": None, "bn_epsilon": None, "frozen_bn": False}
  if hasattr(model, "zero_init_residual"):
    neutral["zero_init_residual"] = False
  folded = model.clone(norm=None, use_bias=True, **neutral)
  return folded, {"params": _fold(variables["params"], variables["batch_stats"], epsilon)}


def _fold(
  params: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float
) -> dict[str, Any]:
  folded = {}
  for name, value in params.items():
    norm = name.replace("conv", "norm")
    if name.startswith("conv") and norm in params:
      folded[name] = _fold_layer(value, params[norm], statistics[norm], epsilon)
    elif name.startswith("norm"):
      continue
    elif isinstance(value, Mapping):
      folded[name] = _fold(value, statistics.get(name, {}), epsilon)
    else:
      folded[name] = value
  return folded


def _fold_layer(
  conv: Mapping[str, Any], norm: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float
) -> dict[str, Any]:
  kernel = conv["kernel"]
  wide = jnp.promote_types(kernel.dtype, jnp.float32)
  mean, variance, scale, bias = (
    jnp.asarray(array, wide)
    for array in (statistics["mean"], statistics["var"], norm["scale"], norm["bias"])
  )
  factor = scale * lax.rsqrt(variance + epsilon)
  shift = bias + (jnp.asarray(conv.get("bias", 0), wide) - mean) * factor
  # In the scanned layout, all arrays have a leading axis of blocks.
  return {
    "kernel": (kernel * factor[..., None, None, None, :]).astype(kernel.dtype),
    "bias": shift.astype(kernel.dtype),
  }
