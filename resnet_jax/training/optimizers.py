"""Optimizers, as optax transformations."""

import optax

from resnet_jax.training.config import OptimizerConfig


def make_optimizer(
  config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """SGD with momentum and L2 weight decay in the gradient (paper, section 3.4).

  g = dL/dw + weight_decay w;  v = momentum v + g;  w = w - rate v: the rate stands outside of v, so
  that dividing it takes effect at once.

  Args:
    config: Momentum and weight decay.
    schedule: Learning rate by the number of steps done.
  """
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule, momentum=config.momentum, nesterov=config.nesterov),
  )
