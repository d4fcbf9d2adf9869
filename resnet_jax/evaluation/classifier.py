"""A trained network with all that it takes to tell the classes of pictures."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import PIL.Image

from resnet_jax.data.config import Interpolation
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Classifier:
  """From pictures to the scores of classes.

  Attributes:
    name: What to call it.
    logits: (N, size, size, channels) uint8 -> (N, classes) float32, N always the same.
    size: Pixels of the side of the crop that it is shown.
    short_side: Pixels of the short side to which pictures are resized before.
    interpolation: Of the resizing, antialiased.
    channels: 3 for RGB, 1 for grey.
    class_names: In the order of the classes; None if they have none.
  """

  name: str
  logits: Callable[[np.ndarray], Any]
  size: int
  short_side: int
  interpolation: Interpolation
  channels: int
  class_names: tuple[str, ...] | None

  def crop(self, encoded: bytes) -> np.ndarray:
    """The centre crop of a picture, as the evaluation shows it.

    Args:
      encoded: The bytes of a file, of any format that data sets may have.

    Returns:
      (size, size, channels) uint8.

    Raises:
      UndecodableError: They are no whole picture.
    """
    # Loaded where it is needed: Numba, which compiles the decoder, takes half a second.
    from resnet_jax.data.decode import decode_window
    from resnet_jax.data.windows import center_window

    window = functools.partial(center_window, short_side=self.short_side, size=self.size)
    shape = (self.size, self.size)
    pixels = decode_window(encoded, window, shape, interpolation=self.interpolation)
    if self.channels == 3:
      return pixels
    return np.asarray(PIL.Image.fromarray(pixels).convert("L"))[..., None]


def make_classifier(
  name: str,
  logits: Callable[[Any], Any],
  preprocessing: Preprocessing,
  channels: int,
  class_names: tuple[str, ...] | None,
) -> Classifier:
  """A classifier of pictures that are prepared in a given way.

  Args:
    name: What to call it.
    logits: From pixels; see `Classifier`.
    preprocessing: Says which sizes; what it does to pixels is part of `logits`.
    channels: 3 or 1.
    class_names: As `Classifier`'s.

  Raises:
    UserError: The size of the crop is not known.
  """
  size, short_side = preprocessing.size, preprocessing.short_side
  if size is None or short_side is None:
    raise UserError(f"which size of pictures {name} expects is not known")
  if channels not in (1, 3):
    raise UserError(f"{name} expects {channels} channels; pictures have 3, or 1")
  interpolation = preprocessing.interpolation or "bilinear"
  return Classifier(name, logits, size, short_side, interpolation, channels, class_names)


def network_logits(model: Any, variables: Any, preprocessing: Preprocessing) -> Callable[..., Any]:
  """The compiled function from pixels, (N, size, size, channels) uint8, to logits."""
  placed = jax.device_put(variables)

  @jax.jit
  def logits(variables: Any, pixels: jax.Array) -> jax.Array:
    return model.apply(variables, preprocessing(pixels), train=False)

  return functools.partial(logits, placed)
