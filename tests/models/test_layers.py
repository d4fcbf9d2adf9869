"""Convolution, batch norm and pooling against numpy and flax.linen."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

from resnet_jax.models import (
  BatchNorm,
  Conv,
  Stem,
  average_pool,
  global_average_pool,
  global_max_pool,
  group_layout,
  max_pool,
)

BATCH, CHANNELS = 16, 3


def activations(shape=(BATCH, 2, 2, CHANNELS), dtype=np.float64):
  """Input whose examples and channels have different means and deviations."""
  generator = np.random.default_rng(0)
  offsets = generator.normal(0, 2, (shape[0], *(1,) * (len(shape) - 2), shape[-1]))
  return (generator.normal(1, 3, shape) + offsets).astype(dtype)


def norm_variables(dtype=np.float64):
  """Parameters and running statistics that are not the initial ones."""
  generator = np.random.default_rng(1)
  scale, bias, mean, var = generator.uniform(0.5, 2, (4, CHANNELS)).astype(dtype)
  return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def flax_in_groups(variables, x, group, momentum=0.9):
  """flax.linen.BatchNorm on each group by itself; the mean of the updated statistics."""
  norm = nn.BatchNorm(use_running_average=False, momentum=momentum)
  results = [
    norm.apply(variables, part, mutable=["batch_stats"])
    for part in np.split(x, len(x) // (group or len(x)))
  ]
  outputs, updated = zip(*results, strict=True)
  stats = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *updated)
  return np.concatenate(outputs), stats["batch_stats"]


def on_devices(variables, x, group, devices):
  """Output of the whole batch and the statistics of each device, under pmap."""
  norm = BatchNorm(axis_name="i", group=group)
  apply = jax.pmap(
    functools.partial(norm.apply, mutable=["batch_stats"]),
    axis_name="i",
    in_axes=(None, 0),
    devices=jax.devices()[:devices],
  )
  y, updated = apply(variables, x.reshape(devices, -1, *x.shape[1:]))
  return np.asarray(y).reshape(x.shape), jax.device_get(updated["batch_stats"])


def assert_close(actual, expected, rtol=1e-11):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), actual, expected
  )


@pytest.mark.parametrize("shape", [(BATCH, CHANNELS), (BATCH, 2, 2, CHANNELS)])
def test_batch_norm_of_the_whole_batch_is_flax_batch_norm(x64, shape):
  settings = {"momentum": 0.8, "epsilon": 1e-3}
  x, variables = activations(shape), norm_variables()
  for train in (True, False):
    results = [
      jax.jit(
        functools.partial(
          kind(use_running_average=not train, **settings).apply, mutable=["batch_stats"]
        )
      )(variables, x)
      for kind in (BatchNorm, nn.BatchNorm)
    ]
    assert results[0][0].dtype == np.float64
    assert_close(*results)


def test_batch_norm_has_the_parameters_and_initial_statistics_of_flax():
  x = activations(dtype=np.float32)
  ours, theirs = (kind(use_running_average=False) for kind in (BatchNorm, nn.BatchNorm))
  jax.tree.map(
    np.testing.assert_array_equal,
    ours.init(jax.random.key(0), x),
    theirs.init(jax.random.key(0), x),
  )


@pytest.mark.parametrize("group", [1, 2, 8, 16])
def test_groups_within_a_device_are_normalised_each_by_itself(x64, group):
  x, variables = activations(), norm_variables()
  norm = BatchNorm(group=group)
  y, updated = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))(variables, x)
  expected_y, expected_stats = flax_in_groups(variables, x, group)
  assert_close(y, expected_y)
  assert_close(updated["batch_stats"], expected_stats)


@pytest.mark.parametrize(
  ("group", "devices"), [(None, 4), (None, 2), (2, 4), (4, 4), (8, 4), (2, 2)]
)
def test_groups_on_devices_are_those_of_the_whole_batch_on_one(x64, group, devices):
  x, variables = activations(), norm_variables()
  y, stats = on_devices(variables, x, group, devices)
  expected_y, expected_stats = flax_in_groups(variables, x, group)
  assert_close(y, expected_y)
  for name, on_each in stats.items():
    assert on_each.shape == (devices, CHANNELS)
    assert_close(on_each, np.broadcast_to(expected_stats[name], on_each.shape))


@pytest.mark.parametrize("group", [None, 2, 4, 8])
def test_running_statistics_are_the_same_bits_on_every_device(group):
  _, stats = on_devices(norm_variables(np.float32), activations(dtype=np.float32), group, devices=4)
  for leaf in jax.tree.leaves(stats):
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))


@pytest.mark.parametrize("group", [None, 8])
def test_gradient_through_groups_on_devices_is_that_of_one_device(x64, group):
  x, variables = activations(), norm_variables()
  weights = np.random.default_rng(2).normal(size=x.shape)

  def gradient(norm, params, x, weights):
    def loss(params, x):
      y, _ = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
      return (weights * jnp.sin(y)).sum()

    return jax.grad(loss, (0, 1))(params, x)

  one = jax.jit(functools.partial(gradient, BatchNorm(group=group)))
  expected_params, expected_x = one(variables["params"], x, weights)
  four = jax.pmap(
    functools.partial(gradient, BatchNorm(axis_name="i", group=group)),
    axis_name="i",
    in_axes=(None, 0, 0),
  )
  shares = (a.reshape(4, -1, *a.shape[1:]) for a in (x, weights))
  params, dx = four(variables["params"], *shares)
  assert_close(np.asarray(dx).reshape(x.shape), expected_x)
  assert_close(jax.tree.map(lambda g: g.sum(0), params), expected_params)


@pytest.mark.parametrize(
  ("examples", "group", "devices", "layout"),
  [
    (16, None, 1, (1, 1)),
    (16, 4, 1, (4, 1)),
    (4, None, 4, (1, 4)),
    (4, 2, 4, (2, 1)),
    (4, 4, 4, (1, 1)),
    (4, 8, 4, (1, 2)),
    (32, 32, 8, (1, 1)),
    (16, 64, 8, (1, 4)),
  ],
)
def test_group_layout_gives_groups_of_a_device_and_devices_of_a_group(
  examples, group, devices, layout
):
  assert group_layout(examples, group, devices) == layout


@pytest.mark.parametrize(
  ("examples", "group", "devices"), [(16, 3, 1), (4, 6, 4), (4, 12, 4), (4, 32, 4), (6, 4, 4)]
)
def test_a_group_that_does_not_fit_is_refused_with_the_numbers(examples, group, devices):
  message = f"{group} examples does not fit {examples} examples on each of {devices} device"
  with pytest.raises(ValueError, match=message):
    group_layout(examples, group, devices)


def test_batch_norm_refuses_a_group_that_does_not_divide_its_batch():
  with pytest.raises(ValueError, match="groups of 3 examples does not fit 16"):
    BatchNorm(group=3).apply(
      norm_variables(np.float32), activations(dtype=np.float32), mutable=["batch_stats"]
    )


def test_evaluation_never_updates_statistics_and_sees_each_example_alone():
  x, variables = activations(dtype=np.float32), norm_variables(np.float32)
  apply = functools.partial(
    BatchNorm(use_running_average=True, axis_name="unbound", group=5).apply, mutable=["batch_stats"]
  )
  whole, updated = apply(variables, x)
  jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
  first, _ = apply(variables, x[:1])
  np.testing.assert_array_equal(first, whole[:1])


@pytest.mark.parametrize("train", [True, False])
def test_bfloat16_input_keeps_float32_statistics(train):
  # 4,096 values about 100: a mean accumulated in bfloat16, or rounded to it, is off by up to 0.25.
  x = jnp.asarray(100 + activations((64, 8, 8, CHANNELS)), jnp.bfloat16)
  variables = norm_variables(np.float32)
  norm = BatchNorm(use_running_average=not train, momentum=0.0)
  y, updated = norm.apply(variables, x, mutable=["batch_stats"])
  assert y.dtype == jnp.bfloat16
  stats = updated["batch_stats"]
  assert {leaf.dtype for leaf in stats.values()} == {np.dtype(np.float32)}
  if train:
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(stats["mean"], exact.mean((0, 1, 2)), rtol=2e-6)
    # The mean of squares, 1e4, is rounded to 1e-7 of itself.
    np.testing.assert_allclose(stats["var"], exact.var((0, 1, 2)), atol=1e-2)


def test_running_statistics_keep_their_dtype():
  norm = BatchNorm(param_dtype=jnp.bfloat16)
  x = activations(dtype=np.float32).astype(jnp.bfloat16)
  variables = norm.init(jax.random.key(0), x)
  _, updated = norm.apply(variables, x, mutable=["batch_stats"])
  for name, before in variables["batch_stats"].items():
    assert updated["batch_stats"][name].dtype == before.dtype


@pytest.mark.parametrize("size", [7, 8])  # Rows; there is a column more.
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolution_pads_by_half_the_kernel_on_all_sides(x64, kernel_size, stride, size):
  generator = np.random.default_rng(0)
  x = generator.normal(size=(2, size, size + 1, 3))
  kernel = generator.normal(size=(kernel_size, kernel_size, 3, 5))
  pad = (kernel_size - 1) // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
  expected = np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)
  actual = Conv(5, kernel_size, stride).apply({"params": {"kernel": kernel}}, x)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_convolution_has_a_kernel_and_no_bias():
  variables = Conv(5, 3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
  assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (3, 3, 2, 5)}}


def test_convolution_in_bfloat16_keeps_a_float32_kernel():
  x = jnp.ones((1, 4, 4, 2))
  conv = Conv(5, 3, dtype="bfloat16")
  y, variables = conv.init_with_output(jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  assert variables["params"]["kernel"].dtype == np.float32


def test_convolution_starts_normal_with_variance_two_over_fan_out():
  shape = jnp.zeros((1, 4, 4, 128))
  kernel = np.asarray(Conv(256, 3).init(jax.random.key(0), shape)["params"]["kernel"], np.float64)
  assert kernel.shape == (3, 3, 128, 256)
  variance = 2 / (3 * 3 * 256)
  # The relative standard error of the variance of n normal values is sqrt(2 / n) = 0.26 %.
  assert kernel.var() == pytest.approx(variance, rel=3 * np.sqrt(2 / kernel.size))
  result = scipy.stats.kstest(kernel.ravel() / np.sqrt(variance), "norm")
  assert result.pvalue > 0.01


@pytest.mark.parametrize("offset", [0, -100])
@pytest.mark.parametrize(
  ("padding", "expected"),
  # Of 0 … 15 in rows of four: windows that start at row and column 0, or one before.
  [((0, 1), [[10, 11], [14, 15]]), ((1, 1), [[5, 7], [13, 15]])],
)
def test_max_pool_pads_where_it_is_told_and_padding_never_wins(padding, expected, offset):
  x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1) + offset
  y = np.asarray(max_pool(jnp.asarray(x), padding))[0, :, :, 0]
  np.testing.assert_array_equal(y, np.array(expected) + offset)


def test_max_pool_pads_as_caffe_unless_told():
  x = jnp.asarray(activations((1, 6, 6, 2), np.float32))
  np.testing.assert_array_equal(max_pool(x), max_pool(x, (0, 1)))
  assert np.any(max_pool(x) != max_pool(x, (1, 1)))


@pytest.mark.parametrize("size", [33, 34, 35, 36])
@pytest.mark.parametrize("kind", ["imagenet", "deep"])
def test_the_stem_halves_twice_and_rounds_as_its_pooling_pads(kind, size):
  half = -(-size // 2)
  expected = {(0, 1): half // 2, (1, 0): half // 2, (1, 1): -(-half // 2), (0, 0): (half - 1) // 2}
  x = jax.ShapeDtypeStruct((1, size, 40, 3), "float32")
  for padding, rows in expected.items():
    stem = Stem(4, kind, padding)
    y, _ = jax.eval_shape(stem.init_with_output, jax.random.key(0), x)
    assert y.shape == (1, rows, 9 if padding == (0, 0) else 10, 4)


@pytest.mark.parametrize("dilation", [None, 1, 3])
@pytest.mark.parametrize("window", [2, 3])
def test_average_pool_is_the_mean_of_what_is_there_with_its_gradient(x64, window, dilation):
  x = np.random.default_rng(0).normal(size=(2, 7, 8, 3))
  stride = window if dilation is None else 1

  def reference(x):
    starts = np.meshgrid(np.arange(0, 7, stride), np.arange(0, 8, stride), indexing="ij")
    offsets = [
      (row, column)
      for row in np.arange(window) * (dilation or 1)
      for column in np.arange(window) * (dilation or 1)
    ]
    total, count = 0, 0
    for row, column in offsets:
      rows, columns = starts[0] + row, starts[1] + column
      there = ((rows < 7) & (columns < 8))[..., None]
      total += jnp.where(there, x[:, rows.clip(max=6), columns.clip(max=7)], 0)
      count += there
    return total / count

  pool = functools.partial(average_pool, window=window, dilation=dilation)
  np.testing.assert_allclose(jax.jit(pool)(x), reference(x), rtol=1e-12, atol=1e-12)
  gradients = [jax.jit(jax.grad(lambda x, f=f: jnp.sin(f(x)).sum()))(x) for f in (pool, reference)]
  np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  ("dtype", "wide"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_global_average_pool_is_the_mean_in_float32_or_wider(x64, dtype, wide):
  x = jnp.asarray(100 + activations((2, 16, 16, CHANNELS)), dtype)
  y = global_average_pool(x)
  assert y.dtype == wide
  exact = np.asarray(x, np.float64).mean((1, 2))
  np.testing.assert_allclose(y, exact, rtol=4 * np.finfo(wide).eps)


@pytest.mark.parametrize(
  ("dtype", "wide"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_global_max_pool_is_the_maximum_in_float32_or_wider(x64, dtype, wide):
  x = jnp.asarray(activations((2, 5, 3, CHANNELS)), dtype)
  x = x.at[0, 1, 2, 0].set(jnp.nan).at[0, 2, 1, 1].set(jnp.inf).at[1, ..., 2].set(-jnp.inf)
  for y in (global_max_pool(x), jax.jit(global_max_pool)(x)):
    assert y.dtype == wide
    np.testing.assert_array_equal(y, np.asarray(x, np.float64).max((1, 2)))
  assert np.isnan(y[0, 0]) and np.isposinf(y[0, 1]) and np.isneginf(y[1, 2])


def test_of_equal_maxima_the_first_has_the_gradient(x64):
  x = np.random.default_rng(0).integers(0, 3, (4, 5, 3, CHANNELS)).astype(np.float64)
  weights = np.random.default_rng(1).normal(size=(4, CHANNELS))
  expected = np.zeros_like(x)
  for n in range(4):
    for channel in range(CHANNELS):
      row, column = divmod(int(np.argmax(x[n, :, :, channel].ravel())), 3)
      expected[n, row, column, channel] = weights[n, channel]

  def loss(x):
    return (weights * global_max_pool(x)).sum()

  np.testing.assert_array_equal(jax.grad(loss)(x), expected)
  np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), expected)


def test_global_max_pool_has_all_derivatives_under_all_transformations(x64):
  x, tangent = activations((4, 5, 3, CHANNELS)), activations((4, 5, 3, CHANNELS))[::-1]

  def loss(x):
    return jnp.sin(global_max_pool(x)).sum()

  best = x == x.max((1, 2), keepdims=True)  # No two are equal.
  top = x.max((1, 2), keepdims=True)
  gradient = best * np.cos(top)
  forward = jax.jit(lambda x: jax.jvp(loss, (x,), (tangent,)))(x)
  np.testing.assert_allclose(forward, (np.sin(top).sum(), (gradient * tangent).sum()), rtol=1e-13)
  product = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (tangent,))[1])(x)
  np.testing.assert_allclose(product, best * -np.sin(top) * tangent, rtol=1e-13)
  one_by_one = jax.vmap(jax.grad(lambda x: loss(x[None])))(x)
  np.testing.assert_allclose(one_by_one, gradient, rtol=1e-13)
  shape = jax.export.symbolic_shape(f"batch, 5, 3, {CHANNELS}")
  exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=("cpu", "cuda", "tpu"))(
    jax.ShapeDtypeStruct(shape, x.dtype)
  )
  np.testing.assert_allclose(exported.call(x), gradient, rtol=1e-13)
