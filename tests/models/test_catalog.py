"""The networks by name: exact counts of the paper's tables, errors, and the forward pass."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.models import (
  Addition,
  BasicBlock,
  BatchNorm,
  Conv,
  DropoutAddition,
  ModelConfig,
  ResNet,
  cifar_fields,
  cost,
  create,
  image_shape,
  names,
)

IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)


@functools.cache  # Tracing takes seconds for the deepest.
def abstract_params(model, shape):
  x = jax.ShapeDtypeStruct((1, *shape), "float32")
  return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


@pytest.mark.parametrize(
  ("name", "overrides", "params"),
  [
    ("resnet18", {}, 11_689_512),
    ("resnet34", {}, 21_797_672),
    ("resnet50", {}, 25_557_032),
    ("resnet50", {"stride_in": "3x3"}, 25_557_032),
    ("resnet18", {"shortcut": "A"}, 11_515_688),
    ("resnet34", {"shortcut": "A"}, 21_623_848),
    ("resnet18", {"shortcut": "C"}, 12_043_816),
    ("resnet34", {"shortcut": "C"}, 22_716_840),
    ("resnet50", {"shortcut": "C"}, 40_128_552),
    ("resnet101", {}, 44_549_160),
    ("resnet152", {}, 60_192_808),
    ("preact_resnet200", {}, 64_666_280),
    # WRN-28-10 (arXiv 1605.07146, Table 4: 36.5 million).
    (
      "resnet20",
      {
        "stage_sizes": (4, 4, 4),
        "widening": 10,
        "shortcut": "B",
        "order": "full_preactivation",
      },
      36_479_194,
    ),
    ("vgg16", {}, 138_357_544),
    ("vgg19", {}, 143_667_240),
    ("vgg19", {"norm": "batch"}, 143_667_240 + 2 * 5_504),
    ("resnet20", {}, 269_722),
    ("resnet32", {}, 464_154),
    ("resnet44", {}, 658_586),
    ("resnet56", {}, 853_018),
    ("resnet110", {}, 1_727_962),
    # A loop over equal blocks is traced once.
    ("resnet1202", {"scan": True}, 19_421_274),
    pytest.param("resnet1202", {}, 19_421_274, marks=pytest.mark.long),
    ("preact_resnet110", {}, 1_727_962),
    ("preact_resnet164", {}, 1_703_258),
    ("preact_resnet1001", {"scan": True}, 10_327_706),
    pytest.param("preact_resnet1001", {}, 10_327_706, marks=pytest.mark.long),
  ],
)
def test_parameters_are_exactly_those_of_the_papers_network(name, overrides, params):
  model = create(name, **overrides)
  leaves = jax.tree.leaves(abstract_params(model, image_shape(name)))
  assert sum(np.prod(leaf.shape, dtype=int) for leaf in leaves) == params


@pytest.mark.parametrize(
  ("name", "overrides", "macs"),
  [
    ("resnet18", {}, 1_814_073_344),
    ("resnet34", {}, 3_663_761_408),
    ("resnet50", {}, 3_857_973_248),
    ("resnet50", {"stride_in": "3x3"}, 4_089_184_256),
    ("resnet101", {}, 7_570_194_432),
    ("resnet152", {}, 11_282_415_616),
    ("vgg16", {}, 15_470_264_320),
    ("vgg19", {}, 19_632_062_464),
  ],
)
def test_multiply_adds_are_exactly_table_1(name, overrides, macs):
  assert cost(create(name, **overrides), IMAGENET).macs == macs


# Of all plain networks, tests/models/golden_networks.txt has the numbers.
@pytest.mark.parametrize("name", ["plain34", "plain20"])
def test_a_plain_network_costs_exactly_its_option_a_twin(name):
  plain, twin = create(name), create(name.replace("plain", "resnet"), shortcut="A")
  shape = image_shape(name)
  assert plain.shortcut is None
  assert cost(plain, shape) == cost(twin, shape)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.long) if name == "preact_resnet1001" else name
    for name in names()
    if name != "resnet1202"
  ],
)
def test_the_number_in_the_name_counts_the_weighted_layers(name):
  model = create(name)
  params = abstract_params(model, image_shape(name))
  paths = [[key.key for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  layers = sum(path[-1] == "kernel" and "shortcut" not in path for path in paths)
  assert f"{name.rstrip('0123456789')}{layers}" == name


@pytest.mark.parametrize("depth", [8, 20, 1202])
def test_cifar_fields_have_n_blocks_in_each_of_three_stages(depth):
  assert cifar_fields(depth)["stage_sizes"] == ((depth - 2) // 6,) * 3


@pytest.mark.parametrize("depth", [2, 7, 18, 21, -4])
def test_cifar_fields_refuse_other_depths(depth):
  with pytest.raises(ValueError, match=f"depth={depth}"):
    cifar_fields(depth)


@pytest.mark.parametrize(
  ("name", "overrides", "message"),
  [
    ("resnet21", {}, "'resnet21': did you mean .*resnet20"),
    ("zzz", {}, "'zzz': known are resnet18, "),
    ("resnet20", {"depth": 3}, "resnet20 has no field 'depth': .*num_classes"),
    ("resnet20", {"parent": None}, "no field 'parent'"),
    ("resnet20", {"block": "wide"}, "block='wide'"),
    ("resnet20", {"stem": "mnist"}, "stem='mnist'"),
    ("resnet20", {"shortcut": "D"}, "shortcut='D'"),
    ("resnet50", {"stride_in": "5x5"}, "stride_in='5x5'"),
    ("resnet20", {"stride_in": "3x3"}, "stride_in='3x3': only bottleneck"),
    ("resnet20", {"width": 0}, "width=0"),
    ("resnet20", {"num_classes": -1}, "num_classes=-1"),
    ("resnet20", {"stage_sizes": ()}, r"stage_sizes=\(\)"),
    ("resnet20", {"stage_sizes": (3, 0)}, r"stage_sizes=\(3, 0\)"),
    *(
      ("resnet20", {field: value}, f"{field}=")
      for field, value in (
        ("dtype", "float99"),
        ("param_dtype", "float99"),
        ("pool_padding", (1, 1, 1)),
        ("width", 2.5),
        ("num_classes", "10"),
        ("stage_sizes", 3),
        ("dtype", "int32"),
      )
    ),
  ],
)
def test_an_unknown_name_field_or_value_is_refused_by_name(name, overrides, message):
  with pytest.raises(ValueError, match=message):
    create(name, **overrides)


def test_a_network_has_the_name_of_linen_in_another_module():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return create("resnet20", stage_sizes=(1,), width=2, name="backbone")(x)

  assert set(abstract_params(Net(), (8, 8, 3))) == {"backbone"}


def test_scalars_of_numpy_are_stored_as_those_of_python():
  fields = {
    "stage_sizes": (np.int64(2), 1),
    "width": np.int32(4),
    "squeeze_excitation": np.int64(2),
    "output_stride": np.int64(1),
    "bn_momentum": np.float32(0.5),
    "bn_epsilon": np.float64(1e-3),
    "frozen_bn": np.True_,
    "dtype": jnp.bfloat16,
  }
  model = create("resnet20", **fields)
  assert (model.bn_momentum, model.dtype) == (0.5, "bfloat16")
  for name in fields:
    assert type(getattr(model, name)).__module__ == "builtins"
  assert type(model.stage_sizes[0]) is int
  assert cifar_fields(np.int64(20)) == cifar_fields(20)


def test_a_model_config_creates_the_network_it_names():
  config = ModelConfig("resnet20", {"stage_sizes": [1, 2], "width": 4})
  assert config.create(num_classes=7) == create(
    "resnet20", stage_sizes=(1, 2), width=4, num_classes=7
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_logits_are_float32_and_features_are_in_dtype(dtype, block):
  model = ResNet((1, 2, 1), block, width=4, shortcut="B", num_classes=7, dtype=dtype)
  images = jax.ShapeDtypeStruct((2, 64, 64, 3), "float32")
  apply = functools.partial(model.init_with_output, return_features=True)
  (logits, features), variables = jax.eval_shape(apply, jax.random.key(0), images)
  assert (logits.shape, logits.dtype) == ((2, 7), np.float32)
  expansion = 4 if block == "bottleneck" else 1
  assert {name: feature.shape for name, feature in features.items()} == {
    "stem": (2, 16, 16, 4),
    "stage1": (2, 16, 16, 4 * expansion),
    "stage2": (2, 8, 8, 8 * expansion),
    "stage3": (2, 4, 4, 16 * expansion),
  }
  assert {feature.dtype for feature in features.values()} == {jnp.dtype(dtype)}
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_the_classifier_starts_with_variance_two_over_fan_in_and_no_bias():
  model = ResNet((1,), width=64, stem="cifar", num_classes=2000)
  head = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]["head"]
  kernel = np.asarray(head["kernel"], np.float64)
  assert kernel.shape == (64, 2000)
  assert kernel.var() == pytest.approx(2 / 64, rel=3 * np.sqrt(2 / kernel.size))
  assert not np.any(head["bias"])


def numpy_resnet(variables, x, train):
  """The tiny network below in float64 numpy: logits and the batch's means, by path."""
  means = {}

  def norm(path, x):
    params, stats = variables["params"], variables["batch_stats"]
    for name in path:
      params, stats = params[name], stats[name]
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
    means[path] = mean
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

  def conv(kernel, x, stride):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)

  params = variables["params"]
  x = np.maximum(norm(("stem", "norm"), conv(params["stem"]["conv"]["kernel"], x, 1)), 0)
  for stage in (1, 2, 3):
    stride, path = (1 if stage == 1 else 2), (f"stage{stage}", "block1")
    block = params[path[0]][path[1]]
    y = np.maximum(norm((*path, "norm1"), conv(block["conv1"]["kernel"], x, stride)), 0)
    y = norm((*path, "norm2"), conv(block["conv2"]["kernel"], y, 1))
    shortcut = np.zeros_like(y)
    shortcut[..., : x.shape[-1]] = x[:, ::stride, ::stride]
    x = np.maximum(y + shortcut, 0)
  return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"], means


class ForwardTest(chex.TestCase):
  """The whole network, transformed every way, against numpy."""

  def setUp(self):
    super().setUp()
    self.model = ResNet((1, 1, 1), width=4, stem="cifar", shortcut="A", num_classes=5)
    generator = np.random.default_rng(0)
    self.images = generator.normal(size=(6, 8, 8, 3)).astype(np.float32)

    def draw(path, leaf):
      value = generator.normal(0, 0.5, leaf.shape)
      return (np.abs(value) + 0.5 if path[-1].key == "var" else value).astype(np.float32)

    shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.images)
    self.variables = jax.tree_util.tree_map_with_path(draw, shapes)
    self.exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), self.variables)

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_evaluation_is_the_paper_network(self):
    @self.variant
    def forward(variables, images):
      return self.model.apply(variables, images, train=False)

    expected, _ = numpy_resnet(self.exact, self.images.astype(np.float64), train=False)
    np.testing.assert_allclose(forward(self.variables, self.images), expected, rtol=1e-4, atol=1e-4)

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_training_is_the_paper_network_and_updates_statistics(self):
    @self.variant
    def forward(variables, images):
      return self.model.apply(variables, images, train=True, mutable=["batch_stats"])

    logits, updated = forward(self.variables, self.images)
    expected, means = numpy_resnet(self.exact, self.images.astype(np.float64), train=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert len(means) == 7
    for path, mean in means.items():
      before, after = self.exact["batch_stats"], updated["batch_stats"]
      for name in path:
        before, after = before[name], after[name]
      expected_mean = 0.9 * before["mean"] + 0.1 * mean
      np.testing.assert_allclose(after["mean"], expected_mean, rtol=1e-4, atol=1e-5)

  def test_forward_is_traced_once_for_all_batches_of_a_shape(self):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def forward(variables, images):
      return self.model.apply(variables, images, train=False)

    forward(self.variables, self.images)
    forward(jax.tree.map(np.zeros_like, self.variables), 2 * self.images)


def test_cost_of_one_block_is_that_of_its_convolutions():
  norm = functools.partial(BatchNorm, use_running_average=True)
  result = cost(BasicBlock(16, norm=norm), (8, 8, 16))
  assert result.params == 2 * (9 * 16 * 16 + 2 * 16)
  assert result.macs == 2 * 9 * 16 * 16 * 8 * 8


def test_cost_takes_a_part_as_it_is_made():
  assert cost(BasicBlock(16), (8, 8, 16)).macs == 2 * 9 * 16 * 16 * 8 * 8


@pytest.mark.parametrize("kind", ["scan", "jit", "remat", "nested"])
def test_cost_counts_what_is_within_transformed_modules(kind):
  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
      x = Conv(4, 3)(x)
      return (x, None) if kind in ("scan", "nested") else x

  class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
      if kind in ("scan", "nested"):
        layer = nn.remat(Layer) if kind == "nested" else Layer
        scan = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)
        return scan()(x)[0]
      transformed = nn.jit(Layer) if kind == "jit" else nn.remat(Layer)
      for _ in range(5):
        x = transformed()(x)
      return x

  result = cost(Whole(), (6, 6, 4))
  assert result.params == 5 * 9 * 4 * 4
  assert result.macs == 5 * 9 * 4 * 4 * 6 * 6


def test_cost_takes_parts_that_draw_random_numbers():
  parts = [BasicBlock(3, addition=addition) for addition in (Addition, DropoutAddition)]
  assert cost(parts[0], (8, 8, 3)) == cost(parts[1], (8, 8, 3))
  assert cost(nn.Dropout(0.5, deterministic=False), (8, 8, 3)).macs == 0


def test_cost_counts_a_matrix_product_as_its_multiply_adds():
  result = cost(nn.Dense(7), (5,))
  assert (result.params, result.macs) == (5 * 7 + 7, 5 * 7)
