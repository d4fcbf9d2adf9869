"""Pictures for the tests of decoding."""

import io

import numpy as np
import PIL.Image


def encode(image: PIL.Image.Image, kind: str = "JPEG", **options) -> bytes:
  """The bytes of a file."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
  """Noise over a gradient: nothing in it survives a shift by a pixel."""
  grey_levels = np.random.default_rng(seed).integers(0, 128, (height, width, 3))
  gradient = np.linspace(0, 127, width)[None, :, None]
  return PIL.Image.fromarray((grey_levels + gradient).astype(np.uint8))


def scene(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
  """Coloured edges and shades at several scales, about as sharp as a photograph."""
  generator, side = np.random.default_rng(seed), max(height, width)
  total = np.zeros((side, side, 3))
  for scale, share in ((4, 0.15), (16, 0.35), (64, 0.5)):
    patch = generator.integers(0, 256, (-(-side // scale), -(-side // scale), 3), np.uint8)
    layer = PIL.Image.fromarray(patch).resize((side, side), PIL.Image.Resampling.BICUBIC)
    total += np.asarray(layer, float) * share
  return PIL.Image.fromarray(np.clip(total, 0, 255).astype(np.uint8)[:height, :width])
