"""Loss and accuracy over a whole split: every example exactly once."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from resnet_jax import devices
from resnet_jax.data.dataset import Split, View
from resnet_jax.data.feed import evaluation_batches, even_batch_size, prefetch
from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import MetricSums, metric_sums, summarize


def make_evaluation_step(
  view: View, model: nn.Module, axis_name: str | None = None
) -> Callable[[Any, Any, Mapping[str, jax.Array], jax.Array], tuple[MetricSums, jax.Array]]:
  """The pure function that measures one batch.

  Args:
    view: What the network is shown.
    model: A Linen module; called with `train=False` it gives logits.
    axis_name: The mapped axis that the batch is spread over, or None.

  Returns:
    `step(variables, constants, batch, key)` -> sums over the global batch, and how many examples it
    held, unreadable ones included; `batch` holds `weight` and `real`, each (N,), beside what the
    view needs.
  """

  def step(
    variables: Any, constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
  ) -> tuple[MetricSums, jax.Array]:
    images, labels = view(constants, batch, key)
    logits: Any = model.apply(variables, images, train=False)
    result = metric_sums(logits, labels, batch["weight"]), batch["real"].sum()
    return result if axis_name is None else jax.lax.psum(result, axis_name)

  return step


class Evaluator:
  """Measures variables on a split, on all devices; compiles once."""

  def __init__(
    self,
    model: nn.Module,
    split: Split,
    batch_size: int,
    key: jax.Array,
    parallelize: Callable[..., Any] = devices.parallelize,
  ):
    """Places the split's constants.

    Args:
      model: A Linen module.
      split: What to measure on; its view should not be random.
      batch_size: Maximum number of examples at a time over all devices, rounded up to a multiple of
        their number.
      key: The run's key.
      parallelize: `devices.parallelize`, or the same with other defaults.
    """
    self._split = split
    self._batch_size = even_batch_size(split.size, batch_size, jax.device_count())
    self._constants = devices.replicate(split.constants)
    self._key = devices.replicate(key)
    step = make_evaluation_step(split.view, model, devices.AXIS)
    self._step = parallelize(step, batch_argument=2, arguments=4)

  def __call__(self, variables: Any) -> dict[str, float]:
    """Loss, accuracy and count over the split.

    Args:
      variables: `params` and `batch_stats`, replicated.

    Returns:
      As `metrics.summarize`; `unreadable` too where examples could not be decoded, which then count
      neither as right nor as wrong.

    Raises:
      UserError: No example could be read.
      RuntimeError: The number of examples seen is not the split's.
    """
    host, hosts = jax.process_index(), jax.process_count()
    batches = evaluation_batches(self._split, self._batch_size, host, hosts)
    results: list[Any] = []
    for batch in prefetch(batches, devices.shard):
      results.append(self._step(variables, self._constants, batch, self._key))
      # Waits for an earlier batch, so that batches do not pile up and the devices stay busy.
      jax.block_until_ready(results[-3:][0])
    sums, counts = jax.tree.map(
      lambda *parts: math.fsum(float(part) for part in parts), *jax.device_get(results)
    )
    seen = round(counts)
    if seen != self._split.size:
      raise RuntimeError(f"saw {seen} of {self._split.size} examples of {self._split.name}")
    summary = summarize(sums)
    if not summary["examples"]:
      raise UserError(f"none of the {seen} examples of {self._split.name} could be read")
    unreadable = seen - round(summary["examples"])
    return summary | ({"unreadable": unreadable} if unreadable else {})
