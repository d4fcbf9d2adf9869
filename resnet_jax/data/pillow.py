"""Decoding of any format that image data sets hold, with Pillow."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import PIL.Image

from resnet_jax.data.example_source import UndecodableError

# Naming them keeps hostile or broken bytes from Pillow's other readers, some of which start other
# programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

_ORIENTATION = 0x0112
# Pillow applies the orientation of TIFFs, though of no other format. It is undone here, because
# orientations are ignored. The keys are EXIF orientations.
_UNDO_ORIENTATION = {
  2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
  3: PIL.Image.Transpose.ROTATE_180,
  4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
  5: PIL.Image.Transpose.TRANSPOSE,
  6: PIL.Image.Transpose.ROTATE_90,
  7: PIL.Image.Transpose.TRANSVERSE,
  8: PIL.Image.Transpose.ROTATE_270,
}
_SWAPPED_SIDES = (5, 6, 7, 8)  # orientations that swap height and width


def decode_with_pillow(encoded: bytes, shape: tuple[int, int] | None = None) -> np.ndarray:
  """Decodes a whole image, of any colour mode, and makes it RGB.

  Args:
    encoded: The file.
    shape: (height, width) to which a JPEG may be reduced in decoding: a half, a quarter or an
      eighth, rounded up.

  Returns:
    (H, W, 3) uint8.

  Raises:
    UndecodableError: If the bytes are not a whole image.
  """
  with _decoding_errors():
    image = _open(encoded)
    undo = _UNDO_ORIENTATION.get(_tiff_orientation(image))
    if shape:
      image.draft(None, shape[::-1])
    image.load()
    if undo is not None:
      image = image.transpose(undo)
    if image.mode.startswith("I"):
      # Sixteen bits a pixel: Pillow's own conversion clips at 255 instead of dropping low bits.
      image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def shape_with_pillow(encoded: bytes) -> tuple[int, int]:
  """Returns the height and width of an image, reading only its header.

  Raises:
    UndecodableError: If the bytes do not start with the header of an image.
  """
  with _decoding_errors():
    image = _open(encoded)
    sides = image.height, image.width
    return sides[::-1] if _tiff_orientation(image) in _SWAPPED_SIDES else sides


def _tiff_orientation(image: PIL.Image.Image) -> int:
  """Returns the EXIF orientation that Pillow applies when it loads an image; 1 if none."""
  return image.getexif().get(_ORIENTATION, 1) if image.format == "TIFF" else 1


def _open(encoded: bytes) -> PIL.Image.Image:
  return PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)


@contextlib.contextmanager
def _decoding_errors() -> Iterator[None]:
  """Converts Pillow's errors to `UndecodableError`."""
  try:
    yield
  except PIL.UnidentifiedImageError:
    raise UndecodableError(f"none of {', '.join(FORMATS)}") from None
  except MemoryError:
    raise
  except Exception as error:
    # Pillow's readers raise almost anything on broken bytes: OSError, SyntaxError, struct.error, …
    raise UndecodableError(f"{type(error).__name__}: {error}") from error
