"""From the bytes of one encoded image to the uint8 pixels of one view of it, with Pillow.

The paper's training view (section 3.4): the short side is resized to s, uniform in [256, 480], and
a random 224x224 crop taken. Resizing is antialiased, and only the crop's window is resized.

EXIF orientation is ignored, as TensorFlow's decoder and the common ImageNet pipelines do: a network
trained elsewhere saw these pixels, and a few hundred ImageNet files carry wrong tags.
"""

import io
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image

from resnet_jax.data.example_source import UndecodableError

# What image data sets hold. Naming them keeps hostile or broken bytes from Pillow's other readers,
# some of which start external programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


class Window(NamedTuple):
  """A rectangle in the pixels of an image; edges may lie between pixels."""

  left: float
  top: float
  right: float
  bottom: float


def decoding_threads(requested: int) -> int:
  """The number of threads to decode with: `requested`, or one a usable core for 0."""
  if requested:
    return requested
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def random_words(seed: int, epoch: int, example: int, count: int) -> tuple[int, ...]:
  """Random 64-bit words that belong to one example in one epoch, whoever draws them and when.

  They are the raw output of Philox4x64-10 under key (seed, 2**64 - 1), from counter (0, 0, example,
  epoch) on: numpy promises never to change this stream, which it does not promise for `Generator`.
  (The order of the examples is drawn under key (seed, epoch), so the two never meet.)

  Args:
    seed: Any integer; taken modulo 2**64.
    epoch: From 0.
    example: Number of the example in its split.
    count: How many words.
  """
  key = np.array([seed % 2**64, 2**64 - 1], np.uint64)
  counter = np.array([0, 0, example, epoch], np.uint64)
  raw = np.random.Philox(key=key, counter=counter).random_raw(count)
  return tuple(int(word) for word in raw)


def uniform_integer(word: int, low: int, high: int) -> int:
  """Maps a 64-bit word to the integers low … high, both included: low + floor(word * n / 2**64).

  With n = high - low + 1 values, none is more than n / 2**64 likelier than another.
  """
  return low + (word * (high - low + 1) >> 64)


def resized_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
  """(height, width) with the short side made `short_side`; the long side rounded, halves up."""
  short, long = sorted((height, width))
  resized = (2 * long * short_side + short) // (2 * short)
  return (short_side, resized) if height <= width else (resized, short_side)


def crop_window(
  height: int, width: int, resized: tuple[int, int], top: int, left: int, size: int
) -> Window:
  """The part of an image (height, width) that a crop of its resized version shows.

  Args:
    height: Height in pixels of the image as stored.
    width: Width in pixels of the image as stored.
    resized: (height, width) to which it is resized.
    top: First row of the crop, in the resized image.
    left: First column of the crop, in the resized image.
    size: Rows and columns of the crop.
  """
  down, across = height / resized[0], width / resized[1]
  return Window(
    left=left * across,
    top=top * down,
    # The products may exceed the image by a rounding error, which Pillow refuses.
    right=min((left + size) * across, width),
    bottom=min((top + size) * down, height),
  )


def training_window(
  height: int, width: int, words: tuple[int, ...], short_sides: tuple[int, int], size: int
) -> Window:
  """Scale jitter and a random crop (paper, section 3.4).

  Args:
    height: Height in pixels of the image as stored.
    width: Width in pixels of the image as stored.
    words: Three random 64-bit words: they choose the short side, the crop's first row and its first
      column, each by `uniform_integer`.
    short_sides: Smallest and largest short side, in pixels, both included.
    size: Rows and columns of the crop, at most the smallest short side.
  """
  resized = resized_shape(height, width, uniform_integer(words[0], *short_sides))
  top = uniform_integer(words[1], 0, resized[0] - size)
  left = uniform_integer(words[2], 0, resized[1] - size)
  return crop_window(height, width, resized, top, left, size)


def center_window(height: int, width: int, short_side: int, size: int) -> Window:
  """The centre crop of the image resized to `short_side`; the odd pixel goes below and right."""
  resized = resized_shape(height, width, short_side)
  top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
  return crop_window(height, width, resized, top, left, size)


def decode_crop(encoded: bytes, window: Callable[[int, int], Window], size: int) -> np.ndarray:
  """Decodes an image and resizes one window of it, antialiased and bilinear.

  Equal, up to rounding, to resizing the whole image and cropping: pixels just outside the window
  weigh in at its edges.

  Args:
    encoded: A JPEG, PNG, … file, of any colour mode; it is made RGB.
    window: From (height, width) of the image to the window that is shown.
    size: Rows and columns of the result.

  Returns:
    (size, size, 3) uint8.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  image = _open_rgb(encoded)
  box = window(image.height, image.width)
  return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box))


def decode_image(encoded: bytes) -> np.ndarray:
  """Decodes a whole image: (H, W, 3) uint8. Raises `UndecodableError` as `decode_crop` does."""
  return np.asarray(_open_rgb(encoded))


def _open_rgb(encoded: bytes) -> PIL.Image.Image:
  try:
    image: PIL.Image.Image = PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)
    image.load()
    if image.mode.startswith("I"):
      # Sixteen bits a pixel: Pillow's own conversion clips at 255 instead of dropping low bits.
      image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
  except MemoryError:
    raise
  except Exception as error:
    # Pillow's readers raise almost anything on broken bytes: OSError, SyntaxError, struct.error, …
    raise UndecodableError(f"{type(error).__name__}: {error}") from error
