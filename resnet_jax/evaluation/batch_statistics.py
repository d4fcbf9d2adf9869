"""Batch norm's mean and variance over many training examples, instead of their moving averages.

The authors' released networks have statistics that are "strictly computed using average (not moving
average) on a sufficiently large training batch after the training" (github.com/KaimingHe/
deep-residual-networks, README). The training batch here is a number of batches, as the algorithm of
batch norm's authors has it (arXiv 1502.03167, algorithm 2, lines 10 and 11): every layer normalises
by the statistics of its own group of examples, as in training, and what each layer is given is
averaged over all examples of all batches.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resnet_jax import devices
from resnet_jax.data.dataset import Split, View
from resnet_jax.data.feed import prefetch, training_batches
from resnet_jax.models import BatchNorm, Network


class MeasuredBatchNorm(BatchNorm):
  """Batch norm by its groups, which leaves as statistics those of all that it was given.

  `batch_stats` are then mean and biased variance over all examples of the batch, on all devices,
  whatever the groups and the momentum.
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, …, C) -> (N, …, C), as `BatchNorm`."""
    y = super().__call__(x)
    if not self.is_initializing():
      wide, axes = x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(range(x.ndim - 1))
      mean, var = wide.mean(axes), wide.var(axes)
      if self.axis_name is not None:
        own, mean = mean, jax.lax.pmean(mean, self.axis_name)
        var = jax.lax.pmean(var + jnp.square(own - mean), self.axis_name)
      self.put_variable("batch_stats", "mean", mean)
      self.put_variable("batch_stats", "var", var)
    return y


def measured(model: Network) -> Network:
  """The network with a `MeasuredBatchNorm` in place of every batch norm.

  Called with `train=False` it still normalises by the batch, and nothing is dropped out.

  Raises:
    ValueError: Its norm is not this package's batch norm, or is frozen.
  """
  norm = model.norm
  settings = norm.keywords if isinstance(norm, functools.partial) else {}
  if norm != "batch" and getattr(norm, "func", norm) is not BatchNorm:
    raise ValueError("the network has no batch norm of this package, whose statistics these are")
  if model.frozen_bn:
    raise ValueError("frozen_bn=True: the network was trained for the statistics that it has")

  def make(use_running_average: bool = False, **given: Any) -> nn.Module:
    del use_running_average
    return MeasuredBatchNorm(**settings, **given)

  return model.clone(norm=make)


def batch_moments(model: Network, variables: Any, images: jax.Array) -> Any:
  """Mean and biased variance of what every batch norm is given for one batch. Pure.

  Args:
    model: As `measured` gives it.
    variables: `params`, and `batch_stats`, whose values play no part.
    images: (N, H, W, C), the batch or a device's share of it.

  Returns:
    A tree like `batch_stats`.
  """
  _, updated = model.apply(variables, images, train=False, mutable=["batch_stats"])
  return updated["batch_stats"]


def combine_moments(batches: Iterable[Any]) -> Any:
  """Mean and biased variance over all examples of equally large batches, from those of each.

  The mean is that of the means; the variance is the mean of (the variances plus the squared
  distances of the means from the common one), the law of total variance, which is the variance over
  all examples, exactly. Summed in float64, in one pass (Chan, Golub and LeVeque 1983).

  Args:
    batches: Trees of modules with `mean` and `var`, each (C,).

  Returns:
    A tree of the same structure, float64.

  Raises:
    ValueError: There are no batches.
  """
  total: Any = None
  for count, moments in enumerate(batches):
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), moments)
    if total is None:
      total = wide
    else:
      total = jax.tree.map(functools.partial(_add, count=count), total, wide, is_leaf=_is_norm)
  if total is None:
    raise ValueError("no batches")
  return total


def _is_norm(node: Any) -> bool:
  return isinstance(node, Mapping) and "mean" in node and "var" in node


def _add(total: Mapping[str, Any], one: Mapping[str, Any], count: int) -> dict[str, Any]:
  """The moments of `count` batches and one more."""
  step = one["mean"] - total["mean"]
  share = 1 / (count + 1)
  return {
    "mean": total["mean"] + share * step,
    "var": (1 - share) * total["var"] + share * one["var"] + share * (1 - share) * step**2,
  }


def make_moments_step(view: View, model: Network) -> Callable[..., Any]:
  """The pure function `step(variables, constants, batch, key)` that gives a batch's moments."""
  network = measured(model)

  def step(variables: Any, constants: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
    images, _ = view(constants, batch, key)
    return batch_moments(network, variables, images)

  return step


def reestimate(
  model: Network,
  split: Split,
  variables: Any,
  batches: int,
  batch_size: int,
  seed: int,
  key: jax.Array,
  parallelize: Callable[..., Any] = devices.parallelize,
) -> Any:
  """Batch statistics over the first examples of the training stream, augmented as in training.

  Args:
    model: The network; its batch norms' groups are those of its training.
    split: The training split.
    variables: `params` and `batch_stats`, replicated.
    batches: How many batches; none is seen twice, and an example once an epoch.
    batch_size: Examples in each, over all devices.
    seed: The run's seed.
    key: The run's key.
    parallelize: `devices.parallelize`, or the same with other defaults.

  Returns:
    A tree like `variables["batch_stats"]`, of its dtypes, on the host.

  Raises:
    ValueError: As `measured`'s.
  """
  step = parallelize(make_moments_step(split.view, model), batch_argument=2, arguments=4)
  constants, key = devices.replicate((split.constants, key))
  stream = itertools.islice(training_batches(split, seed, batch_size, 0), batches)
  results = (
    jax.device_get(step(variables, constants, batch, key))
    for batch in prefetch(stream, devices.shard)
  )
  moments = combine_moments(results)
  return jax.tree.map(
    lambda new, old: np.asarray(new, old.dtype), moments, variables["batch_stats"]
  )
