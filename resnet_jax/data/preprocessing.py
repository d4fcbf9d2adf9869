"""From the pixels of a picture to what a network takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax.data.config import Channels, DataConfig, Interpolation
from resnet_jax.errors import UserError

# RGB in [0, 1] of ImageNet's training pictures, as PyTorch's libraries have them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What a network expects of the pictures that it is shown.

  A picture is resized until its short side is `resize`, then its centre of `size` x `size` pixels
  is cut out; that is not done here. A call does what follows: (pixels / scale - mean) / std.

  Attributes:
    mean: Of each channel, in the order of `channels`.
    std: Likewise; or one for all.
    scale: What pixels, 0 to 255, are divided by first: 255 where mean and std are of [0, 1].
    channels: In which order the network takes them.
    size: Pixels of the side of the crop; None if not known.
    resize: Pixels of the short side before the crop; None if not known, or not resized.
    interpolation: Of the resizing; None if not known.
    mean_image: (H, W, C) float32, like `mean`; instead of it subtracted from what has its shape.
      None where there is none, as in all weights of other libraries.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...] = (1.0,)
  scale: float = 1.0
  channels: Channels = "RGB"
  size: int | None = None
  resize: int | None = None
  interpolation: Interpolation | None = None
  mean_image: np.ndarray | None = None

  def __call__(self, pixels: Any) -> Any:
    """What a network takes.

    Args:
      pixels: (…, H, W, C), RGB or grey, from 0 to 255, of any dtype; of NumPy or of JAX, traced
        too.

    Returns:
      The same shape, float32.
    """
    return normalize(self.constants, pixels)

  @property
  def short_side(self) -> int | None:
    """Pixels of the short side to which pictures are resized; None if not known."""
    return self.resize or self.size

  @property
  def constants(self) -> dict[str, np.ndarray]:
    """What `normalize` takes; without what would change nothing."""
    mean = self.mean if self.mean_image is None else self.mean_image
    constants = {"mean": np.asarray(mean, np.float32)}
    if self.channels == "BGR":
      constants["channels"] = np.array([2, 1, 0], np.int32)
    if self.scale != 1:
      constants["scale"] = np.asarray(self.scale, np.float32)
    if any(value != 1 for value in self.std):
      constants["std"] = np.asarray(self.std, np.float32)
    return constants


def normalize(constants: Mapping[str, Any], pixels: Any) -> Any:
  """(pixels / scale - mean) / std.

  Args:
    constants: `mean` (H, W, C) or (C,) float32; and where they are not 1 `std` (C,) or (1,) and
      `scale` (). Where the network does not take RGB, `channels` (C,) int32: which it takes.
    pixels: (…, H, W, C) of any dtype. From those of another shape than the mean image the mean's
      colour is subtracted.

  Returns:
    The same shape, float32.
  """
  x, mean = pixels.astype(np.float32), constants["mean"]
  if "channels" in constants:
    x = x[..., constants["channels"]]
  if "scale" in constants:
    x = x / constants["scale"]
  x = x - (mean.mean((0, 1)) if mean.ndim > 1 and mean.shape != x.shape[-3:] else mean)
  return x / constants["std"] if "std" in constants else x


def make_preprocessing(
  config: DataConfig,
  own: np.ndarray,
  size: int | None,
  resize: int | None = None,
  interpolation: Interpolation | None = None,
) -> Preprocessing:
  """The preprocessing that a config asks for.

  Args:
    config: The data section.
    own: The data set's mean image (H, W, C), or its mean colour (C,), from 0 to 255; of it only the
      number of channels counts where the config gives the mean as numbers.
    size: As in `Preprocessing`.
    resize: Likewise.
    interpolation: Likewise.

  Raises:
    UserError: The config has other numbers of channels.
  """
  channels = own.shape[-1]
  for field in ("mean", "std"):
    values = getattr(config, field)
    if not isinstance(values, str) and len(values) not in (channels, *([1] * (field == "std"))):
      raise UserError(
        f"data.{field}, or that of the weights, has {len(values)} numbers, and the pictures of "
        f"{config.dataset} have {channels} channel(s): one is needed for each"
      )
  if config.channels == "BGR" and channels != 3:
    raise UserError(
      f"data.channels=BGR: the pictures of {config.dataset} have {channels} channel(s)"
    )
  mean, image = config.mean, None
  if isinstance(mean, str):
    ordered = np.asarray(own[..., ::-1] if config.channels == "BGR" else own, np.float32)
    scaled = ordered / np.float32(config.scale)
    mean = tuple(scaled.reshape(-1, channels).mean(0).tolist())
    image = scaled if scaled.ndim > 1 else None
  return Preprocessing(
    mean, config.std, config.scale, config.channels, size, resize, interpolation, image
  )


def with_preprocessing(config: DataConfig, preprocessing: Preprocessing) -> DataConfig:
  """A data section by which pictures are prepared so; without a mean image, which none can hold.

  What is not known of the sizes stays as it is in the section.
  """
  streaming = config.streaming
  size, short_side = preprocessing.size, preprocessing.short_side
  return dataclasses.replace(
    config,
    mean=preprocessing.mean,
    std=(1.0,) if all(value == 1 for value in preprocessing.std) else preprocessing.std,
    scale=preprocessing.scale,
    channels=preprocessing.channels,
    streaming=dataclasses.replace(
      streaming,
      image_size=size or streaming.image_size,
      short_side_evaluation=short_side or streaming.short_side_evaluation,
      interpolation=preprocessing.interpolation or streaming.interpolation,
    ),
  )


def imagenet_preprocessing(
  size: int | None = 224,
  resize: int | None = 256,
  interpolation: Interpolation | None = "bilinear",
) -> Preprocessing:
  """PyTorch's libraries' own: mean and standard deviation of each channel, in [0, 1]."""
  return Preprocessing(
    IMAGENET_MEAN, IMAGENET_STD, 255.0, size=size, resize=resize, interpolation=interpolation
  )
