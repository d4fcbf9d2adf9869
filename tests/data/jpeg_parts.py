"""Pixels of a part of a JPEG, as they are stored."""

import numpy as np

from resnet_jax.data.jpeg import show_part
from resnet_jax.data.jpeg_header import Frame
from resnet_jax.data.windows import Part, Window


def decode_part(encoded: bytes, frame: Frame, part: Part) -> np.ndarray:
  """(H, W, 3) uint8: a window as large as what is shown of it, which resizing leaves as it is."""
  result = np.zeros((part.bottom - part.top, part.right - part.left, 3), np.uint8)
  show_part(encoded, frame, part, Window(*part), result)
  return result
