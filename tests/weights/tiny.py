"""Small residual networks as torchvision's would be, with random variables."""

import jax
import numpy as np

from resnet_jax import models

TINY = {"stage_sizes": (1, 1, 1, 1), "width": 4, "num_classes": 5, "pool_padding": (1, 1)}


def tiny(name="resnet18", **fields):
  """A network of the catalog with its fields replaced by those of `TINY` and others; variables."""
  model = models.create(name, **(TINY | fields))
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)

  def draw(leaf):
    return rng.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype)  # variances are above 0

  return model, jax.tree.map(draw, shapes)


def assert_equal(a, b):
  """Two trees are of the same structure, dtypes, shapes and bits."""
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), a, b)
