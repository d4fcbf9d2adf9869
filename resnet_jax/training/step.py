"""The training step: one pure function, the same on one device and on many."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resnet_jax.data.dataset import View
from resnet_jax.devices import sum_over_devices
from resnet_jax.evaluation.metrics import MetricSums, cross_entropy, metric_sums
from resnet_jax.models.platforms import platform
from resnet_jax.training.averages import advance_average
from resnet_jax.training.state import TrainState

# Folded into the run's key for what a network draws; no epoch, which views fold in, is as large.
_DROPOUT = 2**32 - 1

Step = Callable[
  [TrainState, Any, Mapping[str, jax.Array], jax.Array], tuple[TrainState, MetricSums]
]


@flax.struct.dataclass
class _Part:
  """What a part of the batch contributes: all of it adds up over parts and devices.

  The gradient is that of the loss summed over the examples, divided by the size of the whole batch.
  """

  gradient: Any
  sums: MetricSums
  batch_stats: Any


def make_step(
  view: View,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  axis_name: str | None = None,
  *,
  accumulate: int = 1,
  label_smoothing: float = 0.0,
  ema_decay: float | None = None,
) -> Step:
  """The step `(state, constants, batch, key) -> (state, sums)`.

  The loss is the mean cross-entropy over the examples of the global batch, weighted; its gradient
  is that of one device with the whole batch, if the model's batch norms take `axis_name` too. An
  example of weight 0 (unreadable) adds nothing to the loss, but is part of the batch's statistics.
  A network with dropout draws by key, step, device and part, so that with other devices it draws
  others.

  Devices exchange the gradient, with the sums beside it, in one collective. Batch norms exchange
  their statistics besides.

  Args:
    view: What the network is shown: `view(constants, batch, key)` -> images, labels.
    model: A Linen module; called with `train=True` it gives logits and updates `batch_stats`.
    optimizer: Applied to the gradient. One that takes extra arguments is given `error`, the share
      in [0, 1] of the batch's examples that the network had wrong.
    axis_name: The axis of `jax.pmap`, `jax.vmap` or `jax.shard_map` that the batch is spread over
      in equal parts; None if the whole batch is at hand. Under `shard_map` pass `check_vma=False`:
      with it on, the gradient comes out multiplied by the number of devices.
    accumulate: In how many equal parts, consecutive in `batch`, the gradient is computed, one after
      the other; batch norm sees a part at a time, and running statistics move once.
    label_smoothing: Share of the label's weight that is spread over all classes
      (arXiv 1512.00567, section 7). The sums are those of the labels as they are.
    ema_decay: Of the state's average, if it has one; see `averages.advance_average`.

  Returns:
    A pure function of the state, the view's constants, the (device's part of the) batch with its
    `weight` (N,), and the run's key; it gives the next state, and the sums of loss and accuracy
    over the global batch, both equal on all devices.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def part_of(
    state: TrainState,
    constants: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    number: jax.Array,
    size: int,
  ) -> _Part:
    images, labels = view(constants, batch, key)
    weights = batch["weight"]
    dropout_key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
    if axis_name is not None:
      dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
    if accumulate > 1:
      dropout_key = jax.random.fold_in(dropout_key, number)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      logits, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
      )
      losses = weights * cross_entropy(logits, labels, label_smoothing)
      return jnp.where(weights > 0, losses, 0).sum() / size, (
        logits,
        updated.get("batch_stats", {}),
      )

    gradient, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    return _Part(gradient, metric_sums(logits, labels, weights), batch_stats)

  def step(
    state: TrainState, constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
  ) -> tuple[TrainState, MetricSums]:
    if (ema_decay is None) != (not jax.tree.leaves(state.average)):
      raise ValueError(
        f"ema_decay={ema_decay}, and the state has {'an' if state.average else 'no'} average: "
        "create_state(averages=True) goes with ema_decay"
      )
    if len(batch["weight"]) % accumulate:
      raise ValueError(
        f"accumulate={accumulate}: {len(batch['weight'])} examples do not divide into so many parts"
      )
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    size = len(batch["weight"]) * devices

    def part(examples: Mapping[str, jax.Array], number: jax.Array) -> _Part:
      return part_of(state, constants, examples, key, number, size)

    whole = _sum_over_parts(part, batch, accumulate)
    gradient, sums = whole.gradient, whole.sums
    if axis_name is not None and devices > 1:
      gradient, sums = sum_over_devices((gradient, sums), axis_name)
    # Unreadable examples are not part of the mean. Weights are float32 even in x64 mode.
    weight = sums.weight.astype(jnp.result_type(float))
    scale = size / jnp.maximum(weight, 1e-9)
    gradient = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)
    error = 1 - sums.top1 / weight  # NaN if no example was readable
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, error=error)
    params = optax.apply_updates(state.params, updates)
    batch_stats = jax.tree.map(lambda leaf: leaf / accumulate, whole.batch_stats)
    finite = jnp.isfinite(sums.loss)
    for leaf in jax.tree.leaves(params):
      finite &= jnp.isfinite(jnp.abs(leaf).max())
    return TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      diverged=jnp.where((state.diverged > 0) | finite, state.diverged, state.step + 1),
      average=advance_average(
        state.average, {"params": params, "batch_stats": batch_stats}, state.step, ema_decay
      ),
    ), sums

  return step


def _sum_over_parts(
  part: Callable[[Mapping[str, jax.Array], jax.Array], _Part],
  batch: Mapping[str, jax.Array],
  count: int,
) -> _Part:
  """The sum of `part(examples, number)` over `count` equal parts of a batch, one after another."""
  if count == 1:
    return part(batch, jnp.zeros((), jnp.int32))
  parts = (
    {
      name: array.reshape(count, len(array) // count, *array.shape[1:])
      for name, array in batch.items()
    },
    jnp.arange(count),
  )
  shapes = jax.eval_shape(part, *jax.tree.map(lambda array: array[0], parts))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  # XLA for CPUs has no threaded convolution in a loop. Elsewhere a loop keeps memory at a part's.
  unroll = count if platform() == "cpu" else 1
  total, _ = jax.lax.scan(
    lambda total, arguments: (jax.tree.map(jnp.add, total, part(*arguments)), None),
    zeros,
    parts,
    unroll=unroll,
  )
  return total
