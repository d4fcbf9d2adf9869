"""All that training changes from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class TrainState(flax.struct.PyTreeNode):
  """The state of a run; with the config, all that it needs to go on.

  The position in the data and all random keys are functions of `step` and the config's seed.

  Attributes:
    step: Number of steps done, int32 scalar.
    params: Parameters of the network.
    batch_stats: Running statistics of its batch norms, {} if it has none.
    opt_state: State of the optimizer.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, int, int],
) -> TrainState:
  """The state before the first step.

  Args:
    model: A Linen module that takes images (N, H, W, C).
    optimizer: The optimizer.
    key: Random key that fixes the initial parameters.
    image_shape: (H, W, C).
  """
  variables = model.init(key, jnp.zeros((1, *image_shape)))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(variables["params"]),
  )
