"""Fast convolution on CPUs, with the same values and derivatives as XLA's convolution.

XLA computes the gradient of a kernel as one convolution whose window is the whole feature map and
whose channels are the examples of the batch. On CPUs, that is 2 to 20 times slower than the forward
pass for large maps, because the working set exceeds the cache. The sum of gradients over chunks of
the batch is about as fast as the forward pass. A 1x1 convolution is computed as a matrix product,
and one of a small map with many channels as a matrix product of its patches.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from resnet_jax.models.subsampling import every

# Output elements per chunk, 1 MiB in float32: the fastest power of two for the layers of ResNet-20
# (batch 128), ResNet-18 (32) and ResNet-50 (16) on two cores with 512 KiB of L2 each.
_CHUNK_ELEMENTS = 2**18

# Patches make stage 4 of the ImageNet networks 1.8 times as fast, forward and backward. With larger
# maps or fewer channels, gathering them costs more than it saves.
_PATCHES_MAX_PIXELS = 64
_PATCHES_MIN_FEATURES = 256


class Window(NamedTuple):
  """The hyper-parameters of a convolution.

  Attributes:
    stride: Stride in both directions.
    padding: "SAME", or rows and columns of zeros before and after.
    dilation: Distance between the taps of the kernel.
    groups: Number of groups of channels.
  """

  stride: int = 1
  padding: str | tuple[tuple[int, int], tuple[int, int]] = "SAME"
  dilation: int = 1
  groups: int = 1


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Convolves images by XLA's own convolution.

  Args:
    x: (N, H, W, C).
    kernel: (k, k, C / groups, features).
    window: Stride, padding, dilation and groups.

  Returns:
    (N, H', W', features).
  """
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(window.stride, window.stride),
    padding=window.padding,
    rhs_dilation=(window.dilation, window.dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=window.groups,
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve_on_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Computes `convolve` fast on CPUs.

  Derivatives of any order, in forward and reverse mode, equal those of `convolve` up to rounding.
  """
  return _forward(x, kernel, window)


@functools.partial(convolve_on_cpu.defjvp, symbolic_zeros=True)
def _differentiate(
  window: Window,
  primals: tuple[jax.Array, jax.Array],
  tangents: tuple[jax.Array | SymbolicZero, jax.Array | SymbolicZero],
) -> tuple[jax.Array, jax.Array]:
  x, kernel = primals
  x_tangent, kernel_tangent = tangents
  # Otherwise XLA would recompute the norm and the activation before this convolution in the loop
  # that transposes their result for the gradient of the kernel.
  x = lax.optimization_barrier(x)
  y = _forward(x, kernel, window)
  terms = []
  if not isinstance(x_tangent, SymbolicZero):
    terms.append(_forward(x_tangent, kernel, window))
  if not isinstance(kernel_tangent, SymbolicZero):
    count = chunk_count(y.shape) if _choose(x, kernel, window) is convolve else 1
    chunks = [_forward(chunk, kernel_tangent, window) for chunk in jnp.split(x, count)]
    terms.append(jnp.concatenate(chunks))
  # In reverse mode, this becomes a barrier before the output's gradient, for the same reason.
  return y, lax.optimization_barrier(sum(terms[1:], terms[0]))


def _forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  return _choose(x, kernel, window)(x, kernel, window)


def _choose(
  x: jax.Array, kernel: jax.Array, window: Window
) -> Callable[[jax.Array, jax.Array, Window], jax.Array]:
  """Returns the fastest implementation for a convolution: `convolve`, or a matrix product."""
  if window.groups > 1:
    return convolve
  if kernel.shape[:2] == (1, 1):
    return pointwise_as_dot
  if not _is_static(x.shape[1:3]):
    return convolve
  pixels = math.prod(-(-size // window.stride) for size in x.shape[1:3])
  if pixels <= _PATCHES_MAX_PIXELS and kernel.shape[-1] >= _PATCHES_MIN_FEATURES:
    return patches_as_dot
  return convolve


def pointwise_as_dot(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Computes a 1x1 convolution as a matrix product over channels.

  On CPUs, this is several times as fast as XLA's convolution; GPUs and TPUs do not need it.

  Args:
    x: (N, H, W, C).
    kernel: (1, 1, C, features).
    window: The stride; the other fields do not affect a 1x1 kernel.

  Returns:
    (N, ceil(H / stride), ceil(W / stride), features).
  """
  return _product(every(window.stride, x), kernel[0, 0])


def patches_as_dot(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
  """Computes `convolve` of one group as a matrix product of patches, (N, H', W', k * k * C)."""
  size, padding = kernel.shape[:2], window.padding
  if isinstance(padding, str):
    span = [window.dilation * (taps - 1) + 1 for taps in size]
    above, left = lax.padtype_to_pads(x.shape[1:3], span, (window.stride,) * 2, padding)
    padding = (above, left)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    (length - window.dilation * (taps - 1) - 1) // window.stride + 1
    for length, taps in zip(x.shape[1:3], size, strict=True)
  )
  patches = []
  for tap in itertools.product(*map(range, size)):
    row, column = (window.dilation * offset for offset in tap)
    end = (row + window.stride * (rows - 1) + 1, column + window.stride * (columns - 1) + 1)
    patches.append(every(window.stride, x, (row, column), end))
  # Otherwise XLA would gather the patches inside the loop of the product.
  gathered = lax.optimization_barrier(jnp.concatenate(patches, axis=-1))
  return _product(gathered, kernel.reshape(-1, kernel.shape[-1]))


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
  return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())))


def chunk_count(shape: tuple[int, ...]) -> int:
  """Returns the number of equal chunks of the batch for the gradient of a kernel.

  Args:
    shape: Shape of the convolution's output, (N, H', W', features). If a size is symbolic, as in
      programs that `jax.export` exports for any batch, there is one chunk.
  """
  if not _is_static(shape):
    return 1
  examples = shape[0]
  wanted = max(1, min(examples, math.prod(shape) // _CHUNK_ELEMENTS))
  return next(count for count in range(wanted, 0, -1) if examples % count == 0)


def _is_static(shape: tuple[int, ...]) -> bool:
  """Returns whether no size is symbolic (in `jax.export`)."""
  return all(isinstance(size, int) for size in shape)
