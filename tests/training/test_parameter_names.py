"""Which parameters a pattern chooses, by name, on real networks and in both layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.errors import UserError
from resnet_jax.training.parameter_names import check_patterns, matching, parameter_names

BOTTLENECK = "preact_resnet164"


@functools.cache
def shapes(name, **fields):
  model = models.create(name, width=4, **fields)
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def chosen(params, *patterns):
  names, mask = parameter_names(params), jax.tree.leaves(matching(params, patterns))
  return {name for several, fits in zip(names, mask, strict=True) if fits for name in several}


def everything(params):
  return [name for several in parameter_names(params) for name in several]


def by_path(tree):
  """Names as the keys of nested dictionaries spell them."""
  pairs = jax.tree_util.tree_leaves_with_path(tree)
  return ["/".join(key.key for key in path) for path, _ in pairs]


@pytest.mark.parametrize("name", ["resnet20", BOTTLENECK])
def test_a_name_is_the_path_of_keys(name):
  assert everything(shapes(name)) == by_path(shapes(name))


def test_patterns_choose_the_parameters_of_resnet20_that_they_name():
  params = shapes("resnet20")
  assert chosen(params, "head/*") == {"head/bias", "head/kernel"}
  assert chosen(params, "stage1/block1/conv1/kernel") == {"stage1/block1/conv1/kernel"}
  block = chosen(params, "stage2/block1/*")
  assert block == {
    f"stage2/block1/{part}"
    for part in (
      *("conv1/kernel", "conv2/kernel"),
      *(f"norm{i}/{leaf}" for i in (1, 2) for leaf in ("bias", "scale")),
    )
  }
  decayed = set(everything(params)) - chosen(params, "*/scale", "*/bias")
  assert {name.rsplit("/", 1)[1] for name in decayed} == {"kernel"}
  assert len(decayed) == 20  # 19 convolutions and the classifier
  assert chosen(params) == set()


def test_patterns_choose_the_parameters_of_a_bottleneck_network_that_they_name():
  params = shapes(BOTTLENECK, stage_sizes=(2, 2, 2))
  kernels = chosen(params, "stage3/block2/conv?/kernel")
  assert kernels == {f"stage3/block2/conv{i}/kernel" for i in (1, 2, 3)}
  assert len(set(everything(params)) - chosen(params, "*/scale", "*/bias")) == 2 + 18 + 3


def test_upper_and_lower_case_differ():
  assert chosen(shapes("resnet20"), "HEAD/*") == set()


@pytest.mark.parametrize("patterns", [("*/scale", "*/bias"), ("stage2/*",), ("*/block1/*",)])
def test_a_pattern_means_the_same_where_blocks_are_scanned(patterns):
  plain, scanned = shapes("resnet20"), shapes("resnet20", scan=True)
  assert "blocks" in scanned["stage2"]
  assert sorted(everything(plain)) == sorted(everything(scanned))
  assert chosen(plain, *patterns) == chosen(scanned, *patterns)


def test_the_names_of_scanned_blocks_are_in_the_order_of_their_first_axis():
  params = shapes("resnet20", scan=True)
  values = jax.tree.map(lambda leaf: np.arange(leaf.shape[0]), params)
  unrolled = models.to_unrolled({"stage1": values["stage1"]})["stage1"]
  for name in ("block2", "block3"):
    kernel = unrolled[name]["conv1"]["kernel"]
    assert kernel == int(name[-1]) - 2
  assert ("stage1/block2/conv1/kernel", "stage1/block3/conv1/kernel") in parameter_names(params)


def test_scanned_blocks_are_not_told_apart():
  with pytest.raises(UserError, match=r"(?s)frozen=.*scanned blocks.*model\.scan"):
    check_patterns(shapes("resnet20", scan=True), ("stage1/block2/*",), "frozen")
  both = ("stage1/block2/*", "stage1/block3/*")
  check_patterns(shapes("resnet20", scan=True), both, "frozen")
  assert len(chosen(shapes("resnet20", scan=True), *both)) == 12


@pytest.mark.parametrize(
  ("pattern", "near"),
  [("stage1/block1/conv1/kernal", "stage1/block1/conv1/kernel"), ("haed/kernel", "head/kernel")],
)
def test_a_pattern_that_fits_nothing_is_named_with_the_nearest_names(pattern, near):
  with pytest.raises(UserError) as error:
    check_patterns(shapes("resnet20"), ("head/*", pattern), "optimizer.undecayed")
  message = str(error.value)
  assert "optimizer.undecayed" in message
  assert repr(pattern) in message
  assert near in message.split("nearest")[1]


def test_other_containers_than_dictionaries_have_names_too():
  params = {"layers": [np.ones(1), {"w": np.ones(2)}], "b": np.ones(3)}
  assert everything(params) == ["b", "layers/0", "layers/1/w"]
  assert matching(params, ("layers/*",)) == {"layers": [True, {"w": True}], "b": False}
