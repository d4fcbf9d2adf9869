"""What is computed otherwise on CPUs, for speed, is the same function as elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from resnet_jax.models import Conv, ResNet, average_pool, cpu_convolution, max_pool
from resnet_jax.models.cpu_convolution import Window, pointwise_as_dot
from resnet_jax.models.platforms import for_platform, open_platform
from resnet_jax.models.pooling import POOL_PADDINGS, max_pool_of_slices

SIZES = [(5, 8), (7, 6)]


def images(size, channels=3, dtype=np.float64):
  return np.random.default_rng(0).normal(size=(2, *size, channels)).astype(dtype)


def tied_images(size, values=2, channels=3):
  """Images of very few values, so that most windows have several maxima."""
  generator = np.random.default_rng(0)
  return generator.integers(values, size=(2, *size, channels)).astype(np.float64)


def reference_pool(x, padding=(0, 1)):
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=(padding, padding))


def reference_convolution(x, kernel, stride):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@jax.jit
def with_derivatives(function, arguments, tangents, weights):
  """Value, tangent of the value, gradient, and tangent of the gradient along its arguments."""
  value, tangent = jax.jvp(function, arguments, tangents)
  gradient = jax.grad(lambda *a: (weights * function(*a)).sum(), tuple(range(len(arguments))))
  return value, tangent, *jax.jvp(gradient, arguments, tangents)


def assert_same_derivatives(function, reference, *arguments, rtol):
  generator = np.random.default_rng(1)
  tangents = tuple(generator.normal(size=a.shape).astype(a.dtype) for a in arguments)
  weights = generator.normal(size=jax.eval_shape(reference, *arguments).shape)
  results = [
    with_derivatives(jax.tree_util.Partial(f), arguments, tangents, weights)
    for f in (function, reference)
  ]
  jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), *results)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_is_a_matrix_product(x64, stride):
  x, kernel = images((5, 8)), np.random.default_rng(2).normal(size=(1, 1, 3, 5))
  assert_same_derivatives(
    functools.partial(pointwise_as_dot, window=Window(stride)),
    functools.partial(reference_convolution, stride=stride),
    x,
    kernel,
    rtol=1e-13,
  )


@pytest.mark.parametrize(("dtype", "largest"), [("float32", (2047, 300)), ("bfloat16", (255, 255))])
def test_a_matrix_product_keeps_the_dtype_and_the_precision_of_a_convolution(dtype, largest):
  # Integers that the dtype holds, and whose products float32 adds exactly in any order: that is
  # the kernel's choice, which varies with XLA and the processor. A narrower type would round.
  x, kernel = (
    np.random.default_rng(2).integers(-most, most, size, endpoint=True)
    for most, size in zip(largest, [(2, 6, 6, 64), (1, 1, 64, 8)], strict=True)
  )
  assert (np.abs(x) @ np.abs(kernel[0, 0])).max() < 2**24
  exact = jnp.asarray(x @ kernel[0, 0], dtype)  # rounded once
  for convolution in (
    functools.partial(pointwise_as_dot, window=Window()),
    functools.partial(reference_convolution, stride=1),
  ):
    y = convolution(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, exact)


def primitives(function, *arguments):
  """The operations of a function, those within functions that have derivatives of their own too."""

  def walk(jaxpr):
    for equation in jaxpr.eqns:
      if "call_jaxpr" in equation.params:
        yield from walk(equation.params["call_jaxpr"].jaxpr)
      else:
        yield equation.primitive.name

  return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("stride", "use_bias"), [(1, False), (2, True)])
def test_one_set_of_parameters_serves_either_path(monkeypatch, x64, stride, use_bias, padding):
  x = images((5, 6))
  conv = Conv(4, 1, stride, use_bias=use_bias, padding=padding)
  results = []
  for backend, primitive in (("cpu", "dot_general"), ("gpu", "conv_general_dilated")):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    shapes = jax.eval_shape(conv.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=leaf.shape), shapes)
    names = primitives(conv.apply, variables, x)
    assert primitive in names
    assert not {"dot_general", "conv_general_dilated"} - {primitive} & set(names)
    results.append((variables, conv.apply(variables, x)))
  jax.tree.map(np.testing.assert_array_equal, results[0][0], results[1][0])
  np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_only_ungrouped_1x1_convolutions_are_matrix_products(kernel_size, groups):
  conv, x = Conv(6, kernel_size, groups=groups), images((4, 4)).astype(np.float32)
  variables = jax.eval_shape(conv.init, jax.random.key(0), x)
  is_dot = "dot_general" in primitives(conv.apply, variables, x)
  assert is_dot == (kernel_size == 1 and groups == 1)


def test_a_network_is_the_same_function_on_either_path(monkeypatch, x64):
  model = ResNet((1,), "bottleneck", width=4, num_classes=3, dtype="float64")
  x = images((9, 10))
  generator = np.random.default_rng(1)
  results = []

  def draw(path, leaf):
    value = generator.normal(0, 0.5, leaf.shape)
    return np.abs(value) + 0.5 if path[-1].key == "var" else value

  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  variables = jax.tree_util.tree_map_with_path(draw, shapes)

  def loss(params):
    logits, updated = model.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return jnp.sin(logits).sum(), (logits, updated)

  for backend in ("cpu", "gpu"):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"])
    assert ("select_and_scatter" in lowered.as_text()) == (backend == "gpu")
    results.append(lowered.compile()(variables["params"]))
  jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-10), *results)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", POOL_PADDINGS)
def test_the_maximum_of_slices_is_max_pooling(x64, padding, size):
  assert_same_derivatives(
    functools.partial(max_pool_of_slices, padding=padding),
    functools.partial(reference_pool, padding=padding),
    images(size),
    rtol=1e-15,
  )


@pytest.mark.parametrize(
  ("size", "dtype"), [((5, 8), "float64"), ((7, 6), "float64"), ((5, 8), "bfloat16")]
)
@pytest.mark.parametrize("padding", POOL_PADDINGS)
def test_of_equal_values_the_first_has_the_gradient(x64, padding, size, dtype):
  @jax.jit
  def with_gradients(x, weights):
    def with_gradient(pool):
      y, pull_back = jax.vjp(functools.partial(pool, padding=padding), x)
      return y, pull_back(weights)[0]

    return with_gradient(max_pool_of_slices), with_gradient(reference_pool)

  for values in (1, 2, 1000):
    x = jnp.asarray(tied_images(size, values), dtype)
    shape = jax.eval_shape(functools.partial(reference_pool, padding=padding), x).shape
    # Small integers, whose sums are exact in whatever order.
    weights = jnp.asarray(np.random.default_rng(3).integers(-9, 9, shape), dtype)
    (y, gradient), (expected, reference) = with_gradients(x, weights)
    assert y.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(gradient, reference)


def test_the_first_of_a_constant_image_is_the_first_pixel_of_each_window(x64):
  x = np.ones((1, 7, 7, 1))
  gradient = jax.grad(lambda x: max_pool_of_slices(x, (0, 0)).sum())(x)[0, :, :, 0]
  expected = np.zeros((7, 7))
  expected[:5:2, :5:2] = 1
  np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("padding", POOL_PADDINGS)
def test_nan_spreads_to_every_window_that_has_one(padding):
  x = images((7, 8), dtype=np.float32)
  x[0, 0, 0], x[0, 4, 4, 1], x[1, 6, 7, 2], x[1, 3, 3] = np.nan, np.nan, np.nan, np.inf
  x[1, 0, :3] = -np.inf
  y = np.asarray(max_pool_of_slices(jnp.asarray(x), padding))
  padded = np.pad(x, ((0, 0), padding, padding, (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
  np.testing.assert_array_equal(y, windows.max((-2, -1)))
  assert np.isnan(y).any() and np.isinf(y).any()
  np.testing.assert_array_equal(y, reference_pool(jnp.asarray(x), padding))


def test_max_pooling_takes_the_path_of_its_backend(monkeypatch):
  x = images((6, 6)).astype(np.float32)
  for backend, used in (("cpu", False), ("gpu", True), ("tpu", True)):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    assert ("reduce_window_max" in primitives(lambda x: max_pool(x, (1, 1)), x)) == used


@pytest.mark.parametrize(
  ("function", "fast", "usual"),
  [
    (lambda x: max_pool(x, (1, 1)), "select", "reduce_window"),
    (lambda x: Conv(5, 1).apply({"params": {"kernel": jnp.ones((1, 1, 3, 5))}}, x), "dot_general",
     "convolution"),
  ],
)  # fmt: skip
def test_a_path_that_is_left_open_is_that_of_the_platform_a_program_is_for(function, fast, usual):
  x = images((6, 6)).astype(np.float32)
  with open_platform():
    traced = jax.jit(functools.partial(function)).trace(x)
  for platform, used, unused in (("cpu", fast, usual), ("cuda", usual, fast), ("tpu", usual, fast)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert f"stablehlo.{used}" in text
    assert f"stablehlo.{unused}" not in text
  np.testing.assert_array_equal(traced.lower().compile()(x), jax.jit(function)(x))
  assert "platform_index" not in primitives(function, x)
  for platform, used, unused in (("cpu", fast, usual), ("tpu", usual, fast)):
    with for_platform(platform):
      text = jax.jit(functools.partial(function)).trace(x).lower().as_text()
    assert f"stablehlo.{used}" in text
    assert f"stablehlo.{unused}" not in text


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(("padding", "rows"), [((0, 0), 2), ((1, 0), 1), ((0, 1), 1), ((1, 1), 0)])
def test_max_pooling_of_less_than_a_window_is_refused(monkeypatch, padding, rows, backend):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  for shape in ((rows, 9), (9, rows)):
    with pytest.raises(ValueError, match=rf"max-pooling of \({shape[0]}, {shape[1]}\) pixels"):
      max_pool(jnp.zeros((1, *shape, 1)), padding)
  assert max_pool(jnp.zeros((1, rows + 1, 9, 1)), padding).shape[1] == 1


@pytest.mark.parametrize(
  ("size", "stride", "dtype"),
  [
    *((size, stride, "float32") for size in ((4, 4), *SIZES) for stride in (1, 2, 3)),
    ((5, 8), 2, "bfloat16"),
  ],
)
def test_average_pooling_means_over_what_is_within_the_image(size, stride, dtype):
  # PyTorch's AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False).
  x = jnp.asarray(images(size), dtype)
  y = average_pool(x, stride)
  exact = np.asarray(x, np.float64)
  rows, columns = (-(-length // stride) for length in size)
  assert y.shape == (2, rows, columns, 3)
  tolerance = {"float32": 1e-6, "bfloat16": 3e-2}[dtype]
  for row in range(rows):
    for column in range(columns):
      window = exact[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
      np.testing.assert_allclose(
        np.asarray(y[:, row, column], np.float64), window.mean((1, 2)), rtol=0, atol=tolerance
      )


def test_average_pooling_gives_every_pixel_a_gradient(x64):
  gradient = jax.grad(lambda x: average_pool(x, 2).sum())(images((5, 5)))
  expected = np.full((5, 5), 1 / 4)
  expected[4, :], expected[:, 4], expected[4, 4] = 1 / 2, 1 / 2, 1
  np.testing.assert_allclose(gradient, np.broadcast_to(expected[..., None], gradient.shape))


def _window(stride, padding, dilation, groups):
  return Window(
    stride, padding if padding == "SAME" else ((padding, padding),) * 2, dilation, groups
  )


@pytest.mark.parametrize("way", ["chunks", "patches"])
@pytest.mark.parametrize(
  ("kernel_size", "window"),
  [
    (3, _window(1, 1, 1, 1)),
    (3, _window(2, 1, 1, 1)),
    (3, _window(2, "SAME", 1, 1)),
    (3, _window(1, 2, 2, 1)),
    (3, _window(2, 1, 1, 2)),
    (5, _window(2, 2, 1, 1)),
    (1, _window(2, 0, 1, 1)),
  ],
)
def test_a_convolution_on_cpus_has_all_derivatives(monkeypatch, x64, way, kernel_size, window):
  monkeypatch.setattr(cpu_convolution, "_CHUNK_ELEMENTS", 1)
  monkeypatch.setattr(cpu_convolution, "_PATCHES_MIN_FEATURES", 1 if way == "patches" else 10**6)
  generator = np.random.default_rng(0)
  x = generator.normal(size=(6, 5, 8, 4))
  kernel = generator.normal(size=(kernel_size, kernel_size, 4 // window.groups, 6))
  chosen = cpu_convolution._choose(x, kernel, window)
  is_dot = window.groups == 1 and (kernel_size == 1 or way == "patches")
  assert (chosen is cpu_convolution.convolve) == (not is_dot)
  assert_same_derivatives(
    functools.partial(cpu_convolution.convolve_on_cpu, window=window),
    functools.partial(cpu_convolution.convolve, window=window),
    x,
    kernel,
    rtol=1e-12,
  )


def test_a_kernels_gradient_is_computed_in_chunks_and_an_images_only_where_asked_for():
  x, kernel = jnp.ones((8, 64, 64, 4)), jnp.ones((3, 3, 4, 64))
  window = _window(1, 1, 1, 1)
  for argument, expected in ((0, 2), (1, 9)):  # 8 * 2**12 * 64 elements are 8 chunks of 2**18.
    gradient = jax.grad(lambda *a: cpu_convolution.convolve_on_cpu(*a, window).sum(), argument)
    text = str(jax.make_jaxpr(gradient)(x, kernel))
    assert text.count("conv_general_dilated[") == expected


@pytest.mark.parametrize(
  ("shape", "expected"),
  [
    ((128, 32, 32, 16), 8),  # The stages of ResNet-20 at batch 128,
    ((128, 8, 8, 64), 2),
    ((32, 112, 112, 64), 32),  # the stem of ResNet-18 at batch 32,
    ((30, 56, 56, 64), 15),  # a divisor of the batch,
    ((31, 56, 56, 64), 1),  # if there is one,
    ((1, 224, 224, 64), 1),
    ((4, 2, 2, 8), 1),  # and never less than one.
  ],
)
def test_chunks_of_a_batch(shape, expected):
  assert cpu_convolution.chunk_count(shape) == expected
