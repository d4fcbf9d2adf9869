"""Networks applied to images larger than they were trained for, as if they were convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.models.catalog import Network
from resnet_jax.models.factories import activation_function


def logits_of_windows(model: Network, variables: Any, images: jax.Array, view: int) -> jax.Array:
  """The classifier at every place of the last feature map where a view would stand.

  The convolutions see the whole image once. What a view of `view` x `view` pixels makes of the last
  feature map (7x7 for 224 pixels of the ImageNet networks, 8x8 for 32 of the CIFAR networks) is the
  window; it goes over the map of the whole image in steps of one, and each is pooled and classified
  as the map of a view is. A flattening head is a convolution of that size (OverFeat, arXiv
  1312.6229, section 3.5; VGG, arXiv 1409.1556, section 3.2; the paper, section 3.4). On an image of
  the view's own size there is one place, whose logits are the network's.

  Args:
    model: A network with a classifier, pooled by avg or max, or flattened.
    variables: Its variables, as `model.apply` takes them.
    images: (N, H, W, C) float.
    view: Height and width in pixels that the classifier sees.

  Returns:
    (N, rows, columns, num_classes), float32 or wider.

  Raises:
    ValueError: The network has no classifier, or an image is smaller than the view.
  """
  if model.head == "none" or not model.num_classes:
    raise ValueError("a network without a classifier has no logits")
  if min(images.shape[1:3]) < view:
    raise ValueError(f"images of {images.shape[1:3]} pixels are smaller than a view of {view}")
  network = model.clone(head="none")

  def last_map(images: jax.Array) -> Any:
    return network.apply(variables, images)

  one = jax.ShapeDtypeStruct((1, view, view, images.shape[-1]), images.dtype)
  window = jax.eval_shape(last_map, one).shape[1:3]
  x = last_map(images)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  hidden = [f"hidden{i + 1}" for i in range(len(getattr(model, "hidden_features", ())))]
  layers = [variables["params"][name] for name in (*hidden, "head")]
  if model.head == "flatten":
    x = _classify_flattened(x, window, layers.pop(0))
  else:
    x = _pooled(x, window, model.head)
    x = _dense(x, layers.pop(0))
  for layer in layers:
    x = _dense(activation_function(model.activation)(x), layer)
  return x


def _pooled(x: jax.Array, window: tuple[int, ...], pooling: str) -> jax.Array:
  """Means or maxima of all windows: (N, H, W, C) -> (N, rows, columns, C)."""
  dimensions, strides = (1, *window, 1), (1, 1, 1, 1)
  if pooling == "max":
    return lax.reduce_window(x, -jnp.inf, lax.max, dimensions, strides, "VALID")
  return lax.reduce_window(x, 0.0, lax.add, dimensions, strides, "VALID") / (window[0] * window[1])


def _classify_flattened(x: jax.Array, window: tuple[int, ...], layer: Any) -> jax.Array:
  """A dense layer over all windows, flattened rows first, as the convolution that it is."""
  kernel = layer["kernel"].astype(x.dtype)
  kernel = kernel.reshape(*window, x.shape[-1], kernel.shape[-1])
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers) + (
    layer["bias"].astype(x.dtype)
  )


def _dense(x: jax.Array, layer: Any) -> jax.Array:
  return x @ layer["kernel"].astype(x.dtype) + layer["bias"].astype(x.dtype)
