"""An exponential moving average of a network's variables, to be evaluated beside them."""

from typing import Any

import jax
import jax.numpy as jnp


def advance_average(average: Any, variables: Any, step: jax.Array, decay: float | None) -> Any:
  """The average after one more step: d * average + (1 - d) * variables.

  d grows to `decay`, as (1 + step) / (10 + step), so that the average forgets the initial
  parameters soon. Batch statistics are averaged as parameters are.

  Args:
    average: The average before, a tree like `variables`; {} for none, which stays {}.
    variables: `params` and `batch_stats` after the step.
    step: Number of steps done before, int scalar.
    decay: In (0, 1); None if there is no average.
  """
  if decay is None:
    return average
  done = step.astype(jnp.result_type(float))  # JAX divides int32 in float32 even in x64 mode.
  d = jnp.minimum(decay, (1 + done) / (10 + done))

  def advance(old: jax.Array, new: jax.Array) -> jax.Array:
    wide = jnp.promote_types(old.dtype, jnp.float32)
    weight = d.astype(wide)
    return (weight * old.astype(wide) + (1 - weight) * new.astype(wide)).astype(old.dtype)

  return jax.tree.map(advance, average, variables)
