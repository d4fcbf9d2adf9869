"""What weights expect of the pictures that they are shown."""

import dataclasses
from typing import Any, Literal

import numpy as np

# RGB in [0, 1] of ImageNet's training pictures, as PyTorch's libraries have them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """From the pixels of a picture to the input of a network.

  A picture is resized until its short side is `resize`, then its centre of `size` x `size` pixels
  is cut out; that is not done here. A call does what follows: (pixels / scale - mean) / std.

  Attributes:
    mean: Of each channel, in the order of `channels`.
    std: Likewise.
    scale: What pixels, 0 to 255, are divided by first: 255 where mean and std are of [0, 1].
    channels: In which order the network takes them.
    size: Pixels of the side of the crop; None if not known.
    resize: Pixels of the short side before the crop; None if not known, or not resized.
    interpolation: Of the resizing; None if not known.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  scale: float = 1.0
  channels: Literal["RGB", "BGR"] = "RGB"
  size: int | None = None
  resize: int | None = None
  interpolation: Literal["bilinear", "bicubic"] | None = None

  def __call__(self, pixels: Any) -> Any:
    """What a network takes.

    Args:
      pixels: (…, H, W, 3), RGB from 0 to 255, of any dtype; of NumPy or of JAX, traced too.

    Returns:
      The same shape, float32.
    """
    x = pixels.astype(np.float32)
    if self.channels == "BGR":
      x = x[..., ::-1]
    mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
    return (x / np.float32(self.scale) - mean) / std


def imagenet_preprocessing(
  size: int | None = 224,
  resize: int | None = 256,
  interpolation: Literal["bilinear", "bicubic"] | None = "bilinear",
) -> Preprocessing:
  """PyTorch's libraries' own: mean and standard deviation of each channel, in [0, 1]."""
  return Preprocessing(
    IMAGENET_MEAN, IMAGENET_STD, 255.0, size=size, resize=resize, interpolation=interpolation
  )
