"""Options A, B and C of the paper (section 3.3)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.models import IdentityShortcut, ProjectionShortcut, ResNet, ZeroPadShortcut, create
from resnet_jax.models.shortcuts import select_shortcut


def images(size=6, channels=3):
  return np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)


def parameter_paths(model, shape=(1, 32, 32, 3)):
  x = jax.ShapeDtypeStruct(shape, "float32")
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
  return [tuple(key.key for key in path) for path, _ in leaves]


def projections(model):
  """Blocks whose shortcut has a convolution, as stage1.block1."""
  return {
    ".".join(path[:2])
    for path in parameter_paths(model)
    if "shortcut" in path and path[-1] == "kernel"
  }


def test_identity_is_the_input_itself():
  x = images()
  np.testing.assert_array_equal(IdentityShortcut(3).apply({}, x), x)


@pytest.mark.parametrize(("features", "stride"), [(4, 1), (3, 2), (2, 1)])
def test_identity_refuses_to_change_the_shape(features, stride):
  with pytest.raises(ValueError, match=f"3 channels into {features} at stride {stride}"):
    IdentityShortcut(features, stride).apply({}, images())


@pytest.mark.parametrize("size", [5, 6])
def test_option_a_subsamples_and_appends_channels_of_zeros(size):
  x = images(size)
  y, variables = ZeroPadShortcut(8, 2).init_with_output(jax.random.key(0), x)
  assert y.shape == (2, 3, 3, 8)
  for row in range(3):
    for column in range(3):
      np.testing.assert_array_equal(y[:, row, column, :3], x[:, 2 * row, 2 * column])
  assert not np.any(y[..., 3:])
  assert not variables


def test_option_a_cannot_lose_channels():
  with pytest.raises(ValueError, match="reduce 3 channels to 2"):
    ZeroPadShortcut(2).apply({}, images())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_projection_is_a_strided_1x1_convolution_and_batch_norm(stride):
  x = images(5)
  projection = ProjectionShortcut(7, stride)
  variables = projection.init(jax.random.key(0), x)
  y, updated = projection.apply(variables, x, mutable=["batch_stats"])
  conv = nn.Conv(7, (1, 1), stride, padding="VALID", use_bias=False)
  norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
  expected, stats = norm.apply(
    {"params": variables["params"]["norm"], "batch_stats": variables["batch_stats"]["norm"]},
    conv.apply({"params": variables["params"]["conv"]}, x),
    mutable=["batch_stats"],
  )
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6),
    updated["batch_stats"]["norm"],
    stats["batch_stats"],
  )


@pytest.mark.parametrize(
  ("option", "expected"),
  [
    (None, set()),
    ("A", set()),
    ("B", {"stage2.block1", "stage3.block1"}),
    ("C", {f"stage{stage}.block{block}" for stage in (1, 2, 3) for block in (1, 2)}),
  ],
)
def test_projections_are_where_the_option_puts_them(option, expected):
  model = ResNet(stage_sizes=(2, 2, 2), width=4, stem="cifar", shortcut=option)
  assert projections(model) == expected


def test_option_b_projects_the_first_stage_of_bottlenecks_only():
  # 64 -> 256 channels at stride 1; the 18- and 34-layer networks have none there.
  stages = {f"stage{stage}.block1" for stage in (1, 2, 3, 4)}
  assert projections(create("resnet50")) == stages
  assert projections(create("resnet34")) == stages - {"stage1.block1"}


def test_option_c_has_the_papers_thirteen_projections_more_than_b():
  b, c = (projections(create("resnet34", shortcut=option)) for option in "BC")
  assert b < c
  assert len(c) - len(b) == 13
  assert len(c) == 16


def test_an_unknown_option_is_refused_by_name():
  with pytest.raises(ValueError, match="shortcut='D'"):
    select_shortcut("D", changes_shape=False)


@pytest.mark.parametrize("option", ["A", "B", "C"])
@pytest.mark.parametrize(("features", "stride"), [(4, 1), (8, 1), (4, 2), (8, 2)])
def test_every_option_gives_the_shape_of_the_branch(option, features, stride):
  changes = (features, stride) != (4, 1)
  shortcut = select_shortcut(option, changes)(features, stride)
  x = jnp.zeros((2, 7, 6, 4))
  y, _ = jax.eval_shape(shortcut.init_with_output, jax.random.key(0), x)
  assert y.shape == ((2, 4, 3, features) if stride == 2 else (2, 7, 6, features))
