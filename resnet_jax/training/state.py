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
    diverged: Number of the first step whose loss or result was not finite, int32 scalar; 0 while
      there is none.
    average: Moving average of `variables`; {} if the run has none.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState
  diverged: Any = flax.struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))
  average: Any = flax.struct.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, int, int],
  averages: bool = False,
) -> TrainState:
  """The state before the first step.

  Args:
    model: A Linen module that takes images (N, H, W, C).
    optimizer: The optimizer.
    key: Random key that fixes the initial parameters.
    image_shape: (H, W, C).
    averages: Whether the state has a moving average of the variables, which begins as they do.
  """
  variables = model.init(key, jnp.zeros((1, *image_shape)))
  return state_of_variables(variables, optimizer, averages)


def state_of_variables(
  variables: Any, optimizer: optax.GradientTransformation, averages: bool = False
) -> TrainState:
  """Returns the state before the first step, with the given variables.

  Args:
    variables: `params`, and `batch_stats` if the network has any.
    optimizer: The optimizer.
    averages: As for `create_state`.
  """
  variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=optimizer.init(variables["params"]),
    # Copies: an array that stands twice in a state cannot be donated.
    average=jax.tree.map(jnp.copy, variables) if averages else {},
  )
