"""The evaluations within a training: what they measure, and what follows for the learning rate."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from resnet_jax import devices
from resnet_jax.evaluation.accuracy import Evaluator
from resnet_jax.training.build import Run
from resnet_jax.training.rates import observe_validation
from resnet_jax.training.state import TrainState

Metrics = dict[str, float]


def make_validation(run: Run) -> Callable[[TrainState], Metrics] | None:
  """The function that measures a state on the validation split; None if the data set has none.

  It gives `loss`, `accuracy`, `top5_accuracy`, `examples` of the network as it is, and, if the run
  has a moving average of its variables, the first three of that with `ema_` before their names.
  """
  config, split = run.config, run.dataset.splits.get("validation")
  if split is None:
    return None
  evaluate = Evaluator(run.model, split, config.evaluation_batch_size, run.key, run.parallelize)

  def measure(state: TrainState) -> Metrics:
    metrics = evaluate(state.variables)
    if config.ema_decay is None:
      return metrics
    of_average = evaluate(state.average)
    names = ("loss", "accuracy", "top5_accuracy")
    return metrics | {f"ema_{name}": of_average[name] for name in names}

  return measure


def make_plateau_rule(run: Run) -> Callable[[TrainState, Metrics], TrainState]:
  """What an evaluation does to the state: nothing, unless the schedule looks at its result."""
  schedule = run.config.schedule
  if schedule.kind != "plateau":
    return lambda state, metrics: state
  rule, factor = schedule.plateau, schedule.factor
  advance = functools.partial(observe_validation, rule=rule, factor=factor)
  # The whole state passes through, so that its arrays stay where they are.
  compiled = jax.jit(
    lambda state, value: state.replace(opt_state=advance(state.opt_state, value)),
    donate_argnums=0,
    out_shardings=devices.replicated(),
  )

  def observe(state: TrainState, metrics: Metrics) -> TrainState:
    value = metrics["loss"] if rule.metric == "loss" else 1 - metrics["accuracy"]
    return compiled(devices.as_global(state), devices.replicate(np.asarray(value)))

  return observe
