"""Decoding of any format that image data sets hold, with Pillow."""

import io

import numpy as np
import PIL.Image

from resnet_jax.data.example_source import UndecodableError

# Naming them keeps hostile or broken bytes from Pillow's other readers, some of which start other
# programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


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
  try:
    image: PIL.Image.Image = PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)
    if shape:
      image.draft(None, shape[::-1])
    image.load()
    if image.mode.startswith("I"):
      # Sixteen bits a pixel: Pillow's own conversion clips at 255 instead of dropping low bits.
      image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
  except PIL.UnidentifiedImageError:
    raise UndecodableError(f"none of {', '.join(FORMATS)}") from None
  except MemoryError:
    raise
  except Exception as error:
    # Pillow's readers raise almost anything on broken bytes: OSError, SyntaxError, struct.error, …
    raise UndecodableError(f"{type(error).__name__}: {error}") from error
