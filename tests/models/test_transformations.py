"""Every part and network under the transformations of JAX and Flax, in float64."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from nontrivial import random_variables

from resnet_jax.models import (
  VGG,
  BasicBlock,
  BatchNorm,
  BottleneckBlock,
  IdentityShortcut,
  ProjectionShortcut,
  Residual,
  ResNet,
  Stage,
  ZeroPadShortcut,
)

pytestmark = pytest.mark.usefixtures("x64")

DEVICES, BATCH = 4, 8
EXACT = 1e-11


def build(name, norm=BatchNorm, activation=nn.relu):
  """A module, and what it is called with beside its input."""
  parts = {"norm": norm, "activation": activation}
  projection = functools.partial(ProjectionShortcut, norm=norm)
  train = {"train": True}
  network = {"width": 2, "num_classes": 3, "dtype": "float64"} | parts
  modules = {
    "identity": lambda: (IdentityShortcut(4), {}),
    "zero padding": lambda: (ZeroPadShortcut(6, 2), {}),
    "projection": lambda: (projection(6, 2), {}),
    "residual": lambda: (Residual(nn.Sequential([nn.Dense(3), activation, nn.Dense(4)])), {}),
    "basic": lambda: (BasicBlock(6, 2, projection, **parts), {}),
    "bottleneck": lambda: (BottleneckBlock(4, **parts), {}),
    "stage": lambda: (
      Stage(functools.partial(BasicBlock, order="full_preactivation", **parts), 2, 6, 2, norm=norm),
      {},
    ),
    "resnet": lambda: (ResNet((1, 1), stem="cifar", **network), train),
    "imagenet": lambda: (ResNet((1,), "bottleneck", order="full_preactivation", **network), train),
    "vgg": lambda: (VGG((1, 1), hidden_features=(5,), dropout=0.0, **network), train),
  }
  return modules[name]()


def images(name, batch=BATCH):
  channels, size = (3, 8) if name in ("resnet", "imagenet", "vgg") else (4, 5)
  return np.random.default_rng(0).normal(size=(batch, size, size, channels))


def direction(tree, seed):
  """A tangent of the form of a tree."""
  generator = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: generator.normal(size=np.shape(leaf)), tree)


def inner(a, b):
  """The inner product of two trees."""
  return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def assert_close(actual, expected, rtol=EXACT):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), actual, expected
  )


def problem(name, **settings):
  """What a module makes of parameters and input, output and new statistics; and those two."""
  module, arguments = build(name, **settings)
  x = images(name)
  variables = random_variables(build(name)[0], x)
  params = variables.pop("params", {})

  def forward(params, x):
    output, updated = module.apply(
      {**variables, "params": params}, x, **arguments, mutable=["batch_stats"]
    )
    return output, updated.get("batch_stats", {})

  return forward, params, x


# Networks are compared, with their gradients, in `test_compiled_gradients.py`.
@pytest.mark.parametrize("name", ["identity", "zero padding", "residual"])
def test_compiled_is_what_is_written(name):
  forward, params, x = problem(name)
  assert_close(jax.jit(forward)(params, x), forward(params, x))


@pytest.mark.parametrize("name", ["residual", "stage", "imagenet", "vgg"])
def test_several_seeds_at_once_are_each_by_itself(name):
  module, arguments = build(name)
  x = images(name, 2)
  keys = jax.random.split(jax.random.key(7), 3)

  def run(key):
    variables = module.init(key, x)
    output, updated = module.apply(variables, x, **arguments, mutable=["batch_stats"])
    return variables, output, updated

  # Initial values are drawn in float32, and compiled otherwise rounded otherwise.
  together = jax.jit(jax.vmap(run))(keys)
  one_by_one = jax.tree.map(lambda *leaves: np.stack(leaves), *map(jax.jit(run), keys))
  assert_close(together, one_by_one, 2e-5)
  for leaf in jax.tree.leaves(together[1]):
    assert np.any(leaf[0] != leaf[1])


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    *((name, "shard_map") for name in ("basic", "stage", "imagenet")),
    ("resnet", "NamedSharding"),
    ("vgg", "pmap"),
  ],
)
def test_on_four_devices_a_network_is_that_of_one(name, kind):
  """Output, batch statistics and gradients of parameters and images."""
  axis = None if kind == "NamedSharding" else "devices"
  weights = images(name)[..., :1].sum((1, 2, 3))

  def step(forward, params, x, weights):
    def loss(params, x):
      output, stats = forward(params, x)
      return (weights * jnp.sin(output).reshape(len(x), -1).sum(1)).sum(), (output, stats)

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  one, params, x = problem(name)
  several, _, _ = problem(name, norm=functools.partial(BatchNorm, axis_name=axis))
  (of_params, of_x), (output, stats) = jax.jit(functools.partial(step, one))(params, x, weights)
  run = functools.partial(step, several)
  if kind == "pmap":
    split = (leaf.reshape(DEVICES, -1, *leaf.shape[1:]) for leaf in (x, weights))
    result = jax.pmap(run, axis, in_axes=(None, 0, 0))(params, *split)
    (each_params, each_x), (each_output, each_stats) = jax.device_get(result)
    of_params_on_all = jax.tree.map(lambda leaf: leaf.sum(0), each_params)
    of_x_on_all, output_on_all = (
      leaf.reshape(-1, *leaf.shape[2:]) for leaf in (each_x, each_output)
    )
    for leaf in jax.tree.leaves(each_stats):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    stats_on_all = jax.tree.map(lambda leaf: leaf[0], each_stats)
  else:
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("devices",))
    whole, split = P(), P("devices")
    if kind == "shard_map":

      def on_each(params, x, weights):
        (of_params, of_x), aux = run(params, x, weights)
        return (jax.lax.psum(of_params, axis), of_x), aux

      on_all = jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(whole, split, split),
        out_specs=((whole, split), (split, whole)),
        check_vma=False,
      )
    else:
      on_all = run
      x, weights = (jax.device_put(leaf, NamedSharding(mesh, split)) for leaf in (x, weights))
      params = jax.device_put(params, NamedSharding(mesh, whole))
    result = jax.jit(on_all)(params, x, weights)
    (of_params_on_all, of_x_on_all), (output_on_all, stats_on_all) = result
    assert len(output_on_all.sharding.device_set) == DEVICES
  assert_close(output_on_all, output)
  assert_close(stats_on_all, stats)
  assert_close(of_params_on_all, of_params)
  assert_close(of_x_on_all, of_x)


def test_a_gradient_may_be_taken_of_a_shard_map_as_a_whole():
  mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("devices",))
  one, params, x = problem("basic")
  several, _, _ = problem("basic", norm=functools.partial(BatchNorm, axis_name="devices"))
  outputs = jax.shard_map(
    lambda params, x: several(params, x)[0],
    mesh=mesh,
    in_specs=(P(), P("devices")),
    out_specs=P("devices"),
    check_vma=False,
  )
  gradients = [
    jax.jit(jax.grad(lambda params, x, function=function: jnp.sin(function(params, x)).sum()))(
      params, x
    )
    for function in (lambda params, x: one(params, x)[0], outputs)
  ]
  assert_close(*gradients)


@pytest.mark.parametrize(
  "name", ["identity", "zero padding", "residual", "stage", "resnet", "imagenet", "vgg"]
)
def test_forward_and_reverse_derivative_are_that_of_finite_differences(name):
  forward, params, x = problem(name, activation=jnp.tanh)
  arguments = (params, x)
  tangents = direction(arguments, 2)
  weights = direction(jax.eval_shape(forward, *arguments), 3)

  @jax.jit
  def value_and_derivatives(distance):
    moved = jax.tree.map(lambda a, t: a + distance * t, arguments, tangents)
    value, forwards = jax.jvp(forward, moved, tangents)
    _, pull_back = jax.vjp(forward, *moved)
    return inner(weights, value), inner(weights, forwards), inner(pull_back(weights), tangents)

  _, forwards, backwards = value_and_derivatives(0.0)
  np.testing.assert_allclose(forwards, backwards, rtol=1e-9)
  # The error is a few times small^2, beside what rounding leaves, 1e-16 / small.
  small = 1e-6
  (above, *_), (below, *_) = value_and_derivatives(small), value_and_derivatives(-small)
  difference = (above - below) / (2 * small)
  np.testing.assert_allclose(forwards, difference, rtol=1e-6)


@pytest.mark.parametrize("name", ["imagenet", "vgg"])
def test_hessian_vector_products_agree_either_way_and_are_symmetric(name):
  forward, params, x = problem(name, activation=jnp.tanh)
  weights = direction(jax.eval_shape(forward, params, x)[0], 3)
  u, v = direction(params, 4), direction(params, 5)

  def loss(params):
    return inner(weights, jnp.sin(forward(params, x)[0]))

  @jax.jit
  def products(tangent):
    forward_over_reverse = jax.jvp(jax.grad(loss), (params,), (tangent,))[1]
    reverse_over_forward = jax.grad(lambda p: jax.jvp(loss, (p,), (tangent,))[1])(params)
    return forward_over_reverse, reverse_over_forward

  of_u, _ = products(u)
  of_v, other = products(v)
  scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_v))
  assert scale > 1e-2
  relative = jax.tree.map(lambda a, b: np.abs(a - b).max() / scale, of_v, other)
  assert max(jax.tree.leaves(relative)) < 1e-10
  np.testing.assert_allclose(inner(v, of_u), inner(u, of_v), rtol=1e-8)


def test_hessian_vector_products_of_relu_networks_are_finite():
  forward, params, x = problem("resnet")
  v = direction(params, 5)
  product = jax.jit(
    lambda params: jax.jvp(jax.grad(lambda p: jnp.sin(forward(p, x)[0]).sum()), (params,), (v,))[1]
  )(params)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(product))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(product))


@pytest.mark.parametrize("name", ["bottleneck", "stage"])
def test_computing_again_in_the_backward_pass_changes_nothing(name):
  forward, params, x = problem(name)

  def step(function):
    def loss(params):
      output, stats = function(params, x)
      return jnp.sin(output).sum(), stats

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

  assert_close(step(jax.checkpoint(forward)), step(forward))


@pytest.mark.parametrize("block", [BasicBlock, BottleneckBlock])
def test_linen_transforms_take_blocks_as_any_module(block):
  class Net(nn.Module):
    transform: object = staticmethod(lambda module: module)

    @nn.compact
    def __call__(self, x):
      return self.transform(block)(4, norm=BatchNorm, name="unit")(x)

  x = images("basic")
  variables = random_variables(Net(), x)
  expected = Net().apply(variables, x, mutable=["batch_stats"])
  for transform in (nn.remat, nn.jit):
    assert_close(Net(transform).apply(variables, x, mutable=["batch_stats"]), expected)


@pytest.mark.parametrize("name", ["stage", "resnet"])
def test_linen_vmap_makes_an_ensemble(name):
  norm = functools.partial(BatchNorm, use_running_average=True)
  keywords = {}
  if name == "resnet":
    norm, keywords = BatchNorm, {"train": False}
  module, _ = build(name, norm)
  x = images(name, 2)
  members = [random_variables(module, x + seed) for seed in range(2)]
  members[1] = jax.tree.map(lambda leaf: 1.1 * leaf, members[1])

  class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
      ensemble = nn.vmap(
        lambda module, x: module(x, **keywords),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=2,
      )
      return ensemble(module.clone(parent=self, name="member"), x)

  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
  variables = {kind: {"member": tree} for kind, tree in stacked.items()}
  shapes = jax.eval_shape(Ensemble().init, jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
  apply = jax.jit(functools.partial(module.apply, **keywords))
  expected = [apply(member, x) for member in members]
  assert_close(jax.jit(Ensemble().apply)(variables, x), np.stack(expected))


@pytest.mark.parametrize("name", ["residual", "stage", "imagenet", "vgg"])
def test_an_exported_module_is_the_module_for_any_batch(name):
  norm = functools.partial(BatchNorm, use_running_average=True)
  is_network = name in ("imagenet", "vgg")
  module, _ = build(name, BatchNorm if is_network else norm)
  x = images(name)
  variables = random_variables(module, x)
  batch, *rest = jax.export.symbolic_shape(f"batch, {', '.join(map(str, x.shape[1:]))}")
  abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
  exported = jax.export.export(jax.jit(module.apply), platforms=("cpu", "cuda", "tpu"))(
    abstract, jax.ShapeDtypeStruct((batch, *rest), x.dtype)
  )
  loaded = jax.export.deserialize(exported.serialize())
  assert loaded.platforms == ("cpu", "cuda", "tpu")
  assert str(loaded.out_avals[0].shape[0]) == "batch"
  for examples in (1, 3):
    expected = jax.jit(module.apply)(variables, x[:examples])
    assert_close(jax.jit(loaded.call)(variables, x[:examples]), expected)


def test_a_whole_training_step_can_be_exported_for_any_batch():
  # One block by itself and two in a loop.
  model = ResNet((3,), width=2, stem="cifar", num_classes=3, dtype="float64", scan=True)
  x = images("resnet")
  variables = random_variables(model, x)

  def step(variables, x):
    def loss(params):
      logits, updated = model.apply(
        {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
      )
      return jnp.sin(logits).sum(), updated

    return jax.grad(loss, has_aux=True)(variables["params"])

  shape = jax.export.symbolic_shape("batch, 8, 8, 3")
  exported = jax.export.export(jax.jit(step))(variables, jax.ShapeDtypeStruct(shape, x.dtype))
  loaded = jax.export.deserialize(exported.serialize())
  for examples in (2, 5):
    expected = jax.jit(step)(variables, x[:examples])
    assert_close(jax.jit(loaded.call)(variables, x[:examples]), expected)


def to_nnx(module, variables, x):
  """A module of nnx with the variables given."""
  wrapped = nnx.eval_shape(lambda: nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x))
  shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(wrapped, nnx.Param)))
  assert shapes == jax.tree.map(jnp.shape, variables["params"])
  wrapped.to_nnx__rngs = None  # It was abstract, too.
  state = nnx.state(wrapped)
  pure = nnx.to_pure_dict(state)
  for tree in variables.values():
    fill(pure, tree)
  nnx.replace_by_pure_dict(state, pure)
  nnx.update(wrapped, state)
  return wrapped


def fill(target, source):
  for name, content in source.items():
    if isinstance(content, dict):
      fill(target[name], content)
    else:
      target[name] = content


@pytest.mark.parametrize("name", ["residual", "bottleneck", "vgg"])
def test_nnx_wraps_it_with_its_gradient(name):
  module, arguments = build(name)
  x = images(name)
  variables = random_variables(module, x)
  wrapped = to_nnx(module, variables, x)
  mutable = {"mutable": ["batch_stats"]} if "batch_stats" in variables else {}

  def loss(params):
    output, updated = module.apply(
      {**variables, "params": params}, x, **arguments, mutable=["batch_stats"]
    )
    return jnp.sin(output).sum(), (output, updated)

  of_params, (output, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

  graph, state = nnx.split(wrapped)

  @jax.jit
  def run(state):
    net = nnx.merge(graph, state)
    gradient = nnx.grad(lambda net: jnp.sin(net(x, **arguments, **mutable)).sum())(net)
    stats = nnx.state(net, nnx.BatchStat)  # They moved with the call.
    return gradient, stats, net(x, **arguments, **mutable)

  gradient, stats, y = run(state)
  assert_close(y, output)
  assert_close(nnx.to_pure_dict(gradient), of_params)
  assert_close(nnx.to_pure_dict(stats), updated.get("batch_stats", {}))


def test_a_network_is_the_backbone_of_an_nnx_module():
  backbone = ResNet((1,), width=2, stem="cifar", num_classes=0)
  x = images("resnet")
  variables = random_variables(backbone, x)

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.backbone = to_nnx(backbone, variables, x)
      self.head = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
      return self.head(self.backbone(x, train=False))

  net = Net(nnx.Rngs(0))
  kernel = np.asarray(net.head.kernel[...])
  features = np.asarray(backbone.apply(variables, x))
  assert_close(net(x), features @ kernel, 2e-6)
  gradient = nnx.to_pure_dict(nnx.grad(lambda net: net(x).sum())(net))
  of_backbone = jax.grad(
    lambda params: (backbone.apply({**variables, "params": params}, x) @ kernel).sum()
  )(variables["params"])
  assert_close(gradient["backbone"], of_backbone, 2e-5)
  optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)
  before = float(net(x).sum())
  optimizer.update(net, nnx.grad(lambda net: net(x).sum())(net))
  assert float(net(x).sum()) < before


@pytest.mark.parametrize(
  "module",
  [
    BatchNorm(axis_name="nowhere"),
    BasicBlock(4, norm=functools.partial(BatchNorm, axis_name="nowhere")),
    Stage(
      functools.partial(BasicBlock, norm=functools.partial(BatchNorm, axis_name="nowhere")), 2, 4
    ),
  ],
  ids=["norm", "block", "stage"],
)
def test_an_axis_that_nothing_binds_is_refused_in_one_line(module):
  x = images("basic")
  variables = random_variables(module, x)
  apply = functools.partial(module.apply, mutable=["batch_stats"])
  for function in (apply, jax.jit(apply)):
    with pytest.raises(ValueError, match=r"^axis_name='nowhere': .* no axis of that name") as error:
      function(variables, x)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


def test_an_axis_that_nothing_binds_does_not_matter_in_evaluation():
  norm = functools.partial(BatchNorm, axis_name="nowhere")
  model = ResNet((1,), width=2, stem="cifar", num_classes=3, norm=norm)
  x = images("resnet")
  variables = random_variables(model, x)
  assert np.all(np.isfinite(model.apply(variables, x)))
  with pytest.raises(ValueError, match="axis_name='nowhere'"):
    model.apply(variables, x, train=True, mutable=["batch_stats"])


def test_any_linen_module_may_be_made_of_blocks():
  norm = functools.partial(BatchNorm, use_running_average=True)
  parts = {
    "a": functools.partial(BasicBlock, 4, norm=norm),
    "b": functools.partial(Stage, functools.partial(BottleneckBlock, norm=norm), 2, 8, 2, "A"),
    "c": functools.partial(nn.Dense, 3),
  }

  class Compact(nn.Module):
    @nn.compact
    def __call__(self, x):
      for name, part in parts.items():
        x = part(name=name)(x)
      return x

  class Setup(nn.Module):
    def setup(self):
      self.a, self.b, self.c = (part() for part in parts.values())

    def __call__(self, x):
      return self.c(self.b(self.a(x)))

  x = images("basic")
  variables = random_variables(Compact(), x)
  shapes = jax.eval_shape(Setup().init, jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
  expected = x
  for name, part in parts.items():
    own = {kind: tree[name] for kind, tree in variables.items() if name in tree}
    expected = part().apply(own, expected)
  assert_close(Compact().apply(variables, x), expected)
  assert_close(Setup().apply(variables, x), expected)


def test_a_residual_stands_in_any_linen_module():
  class Compact(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Residual(nn.Dense(4, name="layer"))(x)

  class Setup(nn.Module):
    def setup(self):
      self.residual = Residual(nn.Dense(4))

    def __call__(self, x):
      return self.residual(x)

  x = images("residual")
  for net in (Compact(), Setup()):
    variables = random_variables(net, x)
    (kernel,) = (leaf for leaf in jax.tree.leaves(variables) if leaf.ndim == 2)
    (bias,) = (leaf for leaf in jax.tree.leaves(variables) if leaf.ndim == 1)
    assert_close(net.apply(variables, x), x + x @ kernel + bias)


def test_blocks_and_networks_may_stand_in_a_sequence_or_under_a_bound_module():
  evaluation = functools.partial(BatchNorm, use_running_average=True)
  blocks = nn.Sequential([BasicBlock(4, norm=evaluation), BasicBlock(4, norm=evaluation)])
  x = images("basic")
  variables = random_variables(blocks, x)
  bound = blocks.bind(variables)
  y = bound.layers[1](bound.layers[0](x))
  assert_close(y, blocks.apply(variables, x))
