"""Batch norm folded into convolutions gives the outputs of the network that it came from."""

import functools

import jax
import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.models import VGG, BatchNorm, ResNet, fold_batch_norm

NETWORKS = {
  "basic, option A": ResNet((1, 2), width=4, stem="cifar", shortcut="A", num_classes=3),
  "bottleneck": ResNet((1, 1), "bottleneck", width=4, num_classes=3, use_bias=True, bn_epsilon=0.1),
  "option C, pooled": ResNet((2,), width=4, shortcut="C", projection="pool_conv", stem="deep"),
  "activation first": ResNet((2,), width=4, order="relu_only_preactivation", stem="cifar"),
  "activation last": ResNet((2,), width=4, order="relu_before_addition", squeeze_excitation=2),
  "own epsilon": ResNet((1,), width=4, norm=functools.partial(BatchNorm, epsilon=0.3)),
  "starts at zero": ResNet((1,), width=4, zero_init_residual=True, frozen_bn=True, bn_momentum=0.5),
  "scanned": ResNet((3, 3), width=4, stem="cifar", scan=True),
  "VGG": VGG((1, 1), width=4, hidden_features=(), norm="batch", num_classes=3),
}


def trained(model, images):
  """Variables of a network in which every norm has statistics, a scale and a bias of its own."""
  generator = np.random.default_rng(1)

  def draw(path, leaf):
    value = generator.normal(0, 0.5, leaf.shape)
    return np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value

  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_folded_network_has_the_same_outputs(x64, name):
  model = NETWORKS[name].clone(dtype="float64", param_dtype="float64")
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
  variables = trained(model, images)
  folded, fewer = fold_batch_norm(model, variables)
  assert set(fewer) == {"params"}
  assert "norm" not in str(jax.tree.structure(fewer["params"]))
  expected = jax.jit(model.apply)(variables, images)
  found = jax.jit(folded.apply)(fewer, images)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_what_cannot_be_folded_is_refused():
  with pytest.raises(ValueError, match="order='full_preactivation'"):
    fold_batch_norm(models.create("preact_resnet110"), {"params": {}, "batch_stats": {}})
  with pytest.raises(ValueError, match="norm=None"):
    fold_batch_norm(models.create("vgg16"), {"params": {}, "batch_stats": {}})
  with pytest.raises(ValueError, match="no batch_stats"):
    fold_batch_norm(models.create("resnet20"), {"params": {}})
