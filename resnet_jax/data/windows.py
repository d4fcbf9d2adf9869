"""Which part of a stored image is shown: windows of the training and of the evaluation views.

A window lies in the pixels of the image as stored, so that no more of it needs to be decoded than
is shown. What is random in it follows from words that belong to (seed, epoch, example) alone.
"""

import hashlib
import math
import struct
from typing import NamedTuple

# Attempts to draw an Inception crop that fits, as everybody has it, before the centre is taken.
_INCEPTION_ATTEMPTS = 10
# Of 64 bits, in the 64 bytes of a hash.
_WORDS_A_BLOCK = 8
# Pixels of a small part.
_MOST_PIXELS = 2**20
# Random words that a training window takes at most.
WORDS = 2 * _INCEPTION_ATTEMPTS + 2


class Window(NamedTuple):
  """A rectangle in the pixels of an image; edges may lie between pixels."""

  left: float
  top: float
  right: float
  bottom: float


class Part(NamedTuple):
  """A rectangle of whole pixels: its first column and row, and those behind its last."""

  left: int
  top: int
  right: int
  bottom: int

  def is_small(self) -> bool:
    """Whether it is worth being decoded alone and resized as planes.

    Of more pixels the coefficients would not stay in a core's cache, and take a multiple of the
    memory.
    """
    return (self.right - self.left) * (self.bottom - self.top) <= _MOST_PIXELS


def random_words(seed: int, epoch: int, example: int, count: int) -> tuple[int, ...]:
  """Random 64-bit words that belong to one example in one epoch, whoever draws them and when.

  They are BLAKE2b's hash of (seed, epoch, example), eight words a block: a standard, so that they
  never change, and a microsecond, where to set up one of NumPy's generators takes twenty.

  Args:
    seed: Any integer; taken modulo 2**64.
    epoch: From 0.
    example: Number of the example in its split.
    count: How many words.
  """
  words: tuple[int, ...] = ()
  for block in range(-(-count // _WORDS_A_BLOCK)):
    position = struct.pack("<QQQQ", seed % 2**64, epoch, example, block)
    words += struct.unpack("<8Q", hashlib.blake2b(position).digest())
  return words[:count]


def uniform_integer(word: int, low: int, high: int) -> int:
  """Maps a 64-bit word to the integers low … high, both included: low + floor(word * n / 2**64).

  With n = high - low + 1 values, none is more than n / 2**64 likelier than another.
  """
  return low + (word * (high - low + 1) >> 64)


def uniform_real(word: int, low: float, high: float) -> float:
  """Maps a 64-bit word to [low, high]."""
  return low + (high - low) * (word / 2**64)


def resized_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
  """(height, width) with the short side made `short_side`; the long side rounded, halves up."""
  short, long = sorted((height, width))
  resized = (2 * long * short_side + short) // (2 * short)
  return (short_side, resized) if height <= width else (resized, short_side)


def rounded_shape(height: int, width: int, short_side: int, quantum: int) -> tuple[int, int]:
  """`resized_shape` with the long side at a multiple of `quantum`, the nearest (halves up).

  So images of many shapes are resized to few, for which programs need to be compiled. The short
  side stays what was asked for, and the long side no shorter.
  """
  rows, columns = resized_shape(height, width, short_side)
  long = max(short_side, (2 * max(rows, columns) + quantum) // (2 * quantum) * quantum)
  return (short_side, long) if height <= width else (long, short_side)


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


def scale_jitter_window(
  height: int, width: int, words: tuple[int, ...], short_sides: tuple[int, int], size: int
) -> Window:
  """Scale jitter and a random crop: the paper's training view (section 3.4).

  The short side is resized to s, uniform over the integers of `short_sides`, and a square of `size`
  cropped. The corner of the crop is uniform over those pixels *of the stored image* from which the
  crop fits: in the resized image that is any place, not only a whole pixel. So a crop begins where
  a stored pixel begins, which makes resizing cheap.

  Args:
    height: Height in pixels of the image as stored.
    width: Width in pixels of the image as stored.
    words: Random 64-bit words, of which the first three choose the short side, the crop's first row
      and its first column, each by `uniform_integer`.
    short_sides: Smallest and largest short side, in pixels, both included.
    size: Rows and columns of the crop, at most the smallest short side.
  """
  rows, columns = resized_shape(height, width, uniform_integer(words[0], *short_sides))
  top = uniform_integer(words[1], 0, height * (rows - size) // rows)
  left = uniform_integer(words[2], 0, width * (columns - size) // columns)
  return Window(
    left=left,
    top=top,
    right=min(left + size * width / columns, width),
    bottom=min(top + size * height / rows, height),
  )


def inception_window(
  height: int,
  width: int,
  words: tuple[int, ...],
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> Window:
  """A crop of random area and aspect ratio, which is then resized to a square.

  Szegedy et al. 2015 (1409.4842), section 6, in the common form: the area is uniform, the logarithm
  of the aspect ratio uniform, the place uniform over whole pixels; if no crop of ten fits, the
  largest in the centre of an aspect ratio that is allowed.

  Args:
    height: Height in pixels of the image as stored.
    width: Width in pixels of the image as stored.
    words: `WORDS` random 64-bit words.
    area: Smallest and largest share of the image's area.
    aspect: Smallest and largest ratio of width to height.
  """
  for attempt in range(_INCEPTION_ATTEMPTS):
    target = uniform_real(words[2 * attempt], *area) * height * width
    ratio = math.exp(uniform_real(words[2 * attempt + 1], *map(math.log, aspect)))
    columns, rows = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
    if 0 < columns <= width and 0 < rows <= height:
      top = uniform_integer(words[-2], 0, height - rows)
      left = uniform_integer(words[-1], 0, width - columns)
      return Window(left, top, left + columns, top + rows)
  ratio = min(max(width / height, aspect[0]), aspect[1])
  columns, rows = min(width, round(height * ratio)), min(height, round(width / ratio))
  top, left = (height - rows) // 2, (width - columns) // 2
  return Window(left, top, left + columns, top + rows)


def center_window(height: int, width: int, short_side: int, size: int) -> Window:
  """The centre crop of the image resized to `short_side`; the odd pixel goes below and right."""
  resized = resized_shape(height, width, short_side)
  top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
  return crop_window(height, width, resized, top, left, size)


def five_windows(height: int, width: int, short_side: int, size: int) -> tuple[Window, ...]:
  """The four corner crops and the centre crop of the image resized to `short_side`.

  With their mirror images they are the ten crops of Krizhevsky et al. 2012, by which the paper
  measures its single models (section 3.4).

  Returns:
    Top left, top right, bottom left, bottom right, centre.
  """
  resized = resized_shape(height, width, short_side)
  bottom, right = resized[0] - size, resized[1] - size
  corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
  return tuple(crop_window(height, width, resized, top, left, size) for top, left in corners)
