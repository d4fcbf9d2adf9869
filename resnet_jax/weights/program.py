"""A network and its weights as one program, for CPUs and accelerators at once, by `jax.export`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.models.platforms import open_platform
from resnet_jax.weights.plain_arrays import flat, from_arrays

PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN_PLATFORMS = (*PLATFORMS, "rocm")


def export_network(
  model: Network,
  variables: Any,
  image_shape: tuple[int, int, int],
  preprocessing: Preprocessing | None = None,
  platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
  """A network in evaluation, its weights constants of the program.

  As all of JAX's, its operations say in which source files they stand, with their paths, unless
  JAX's setting `jax_traceback_in_locations_limit` is 0; the command `convert` sets it.

  Args:
    model: The network, scanned or not; the program has every block by itself.
    variables: Its `params` and `batch_stats`, scanned or not.
    image_shape: (H, W, C).
    preprocessing: What is done to pixels before the network, in the program too. None if it shall
      take what the network does.
    platforms: What it can be compiled for, whatever this machine has: of cpu, cuda, rocm and tpu.
      Each computes as the network itself does there.

  Returns:
    A function of an array (batch, H, W, C), uint8 pixels from 0 to 255, RGB, or float32 without
    preprocessing; its size in the first axis is open. It gives float32 (batch, outputs).

  Raises:
    UserError: The variables are not those of the network, or it cannot take such images, or it has
      no logits; or there is no such platform.
  """
  if not platforms or set(platforms) - set(_KNOWN_PLATFORMS):
    raise UserError(f"platforms={tuple(platforms)}: known are {', '.join(_KNOWN_PLATFORMS)}")
  # Neither is needed in evaluation; unrolled is what every platform is fast with.
  simpler: Any = {name: False for name in ("scan", "remat") if hasattr(model, name)}
  model = model.clone(**simpler)
  arrays = {name: np.asarray(leaf) for name, leaf in flat(variables).items()}
  dtype = jnp.float32 if preprocessing is None else jnp.uint8

  def network(images: jax.Array) -> jax.Array:
    x = images if preprocessing is None else preprocessing(images)
    logits: Any = model.apply(constants, x, train=False)
    return logits.astype(jnp.float32)

  try:
    constants = from_arrays(model, arrays, lambda name: name, image_shape=image_shape)
    logits = jax.eval_shape(network, jax.ShapeDtypeStruct((1, *image_shape), dtype))
  except ValueError as error:
    raise UserError(str(error)) from None
  if logits.ndim != 2:
    raise UserError(f"head={model.head!r}: the network has no logits, and is not exported")
  (batch,) = export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, *image_shape), dtype)
  with open_platform():
    return export.export(jax.jit(network), platforms=platforms)(images)
