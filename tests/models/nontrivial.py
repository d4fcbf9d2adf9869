"""Variables that hide no defect."""

import functools

import jax
import numpy as np


def random_variables(module, x, dtype=np.float64, **arguments):
  """Variables of which no kernel, scale, bias or statistic is trivial.

  Args:
    module: A Linen module.
    x: Its input.
    dtype: Of all variables.
    **arguments: More that `module.init` takes.
  """
  generator = np.random.default_rng(1)

  def draw(path, leaf):
    value = generator.normal(0, 0.5, leaf.shape)
    return (np.abs(value) + 0.5 if path[-1].key == "var" else value).astype(dtype)

  shapes = jax.eval_shape(functools.partial(module.init, **arguments), jax.random.key(0), x)
  return jax.tree_util.tree_map_with_path(draw, shapes)
