"""The training step: one pure function, the same on one device and on many."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resnet_jax.data.dataset import View
from resnet_jax.evaluation.metrics import MetricSums, cross_entropy, metric_sums
from resnet_jax.training.state import TrainState

# Folded into the run's key for what a network draws; no epoch, which views fold in, is as large.
_DROPOUT = 2**32 - 1

Step = Callable[
  [TrainState, Any, Mapping[str, jax.Array], jax.Array], tuple[TrainState, MetricSums]
]


def make_step(
  view: View,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  axis_name: str | None = None,
) -> Step:
  """The step `(state, constants, batch, key) -> (state, sums)`.

  The loss is the mean cross-entropy over the examples of the global batch, weighted; its gradient
  is that of one device with the whole batch, if the model's batch norms take `axis_name` too. An
  example of weight 0 (unreadable) adds nothing to the loss, but is part of the batch's statistics.
  A network with dropout draws by key, step and device, so that with other devices it draws others.

  Args:
    view: What the network is shown: `view(constants, batch, key)` -> images, labels.
    model: A Linen module; called with `train=True` it gives logits and updates `batch_stats`.
    optimizer: Applied to the gradient; given `error`, the batch's training error, if it takes more
      arguments than that.
    axis_name: The axis of `jax.pmap`, `jax.vmap` or `jax.shard_map` that the batch is spread over
      in equal parts; None if the whole batch is at hand. Under `shard_map` pass `check_vma=False`:
      with it on, the gradient comes out multiplied by the number of devices.

  Returns:
    A pure function of the state, the view's constants, the (device's part of the) batch with its
    `weight` (N,), and the run's key; it gives the next state, and the sums of loss and accuracy
    over the global batch, both equal on all devices.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def step(
    state: TrainState, constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
  ) -> tuple[TrainState, MetricSums]:
    images, labels = view(constants, batch, key)
    weights = batch["weight"]
    share = jnp.maximum(_mean(weights.sum(), axis_name), 1e-9)
    dropout_key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT), state.step)
    if axis_name is not None:
      dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      logits, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
      )
      # Divided by the devices' mean weight, so that the mean over devices is the weighted mean over
      # the global batch even where devices hold unequal numbers of readable examples.
      losses = jnp.where(weights > 0, weights * cross_entropy(logits, labels), 0)
      loss = losses.sum() / share
      return loss, (logits, updated.get("batch_stats", {}))

    gradient, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    gradient = _mean(gradient, axis_name)
    sums = metric_sums(logits, labels, weights)
    sums = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    error = 1 - sums.top1 / sums.weight  # NaN if no example was readable
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, error=error)
    return (
      TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
      ),
      sums,
    )

  return step


def _mean(tree: Any, axis_name: str | None) -> Any:
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
