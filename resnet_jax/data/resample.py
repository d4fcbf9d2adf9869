"""Resizing one window of an image, antialiased, with Pillow's filters and pixels.

Each pixel of the result is a mean of the image under a filter as wide as two pixels of the result
(of the image, where it is enlarged), or four for the bicubic one. Bilinear windows, which training
reads, are computed here, several times faster than by Pillow. They are its pixels bit for bit, but
for tall pictures of versions that resize those along the columns first: one grey level, here and
there. Bicubic ones, and large ones, are left to Pillow.
"""

import math

import numpy as np
import PIL.Image

from resnet_jax.data.config import Interpolation
from resnet_jax.data.resample_planes import resize_image
from resnet_jax.data.windows import Part, Window

_FILTERS = {
  "bilinear": PIL.Image.Resampling.BILINEAR,
  "bicubic": PIL.Image.Resampling.BICUBIC,
}
# How far they reach to each side, in pixels of the result (of the image, where it is enlarged).
_REACH = {"bilinear": 1, "bicubic": 2}


def touched_part(
  window: Window, shape: tuple[int, int], size: tuple[int, int], interpolation: Interpolation
) -> Part:
  """The part of an image on which a resized window of it depends.

  Args:
    window: The part that is shown; its edges may lie between pixels.
    shape: (height, width) of the result.
    size: (height, width) of the image.
    interpolation: Which of the filters.
  """
  down = _REACH[interpolation] * max((window.bottom - window.top) / shape[0], 1)
  across = _REACH[interpolation] * max((window.right - window.left) / shape[1], 1)
  return Part(
    max(0, math.floor(window.left - across)),
    max(0, math.floor(window.top - down)),
    min(size[1], math.ceil(window.right + across)),
    min(size[0], math.ceil(window.bottom + down)),
  )


def resize_window(
  image: np.ndarray,
  window: Window,
  shape: tuple[int, int],
  interpolation: Interpolation = "bilinear",
  result: np.ndarray | None = None,
) -> np.ndarray:
  """Resizes a window of an image.

  Equal, up to rounding, to resizing the whole image and cropping: pixels just outside the window
  weigh in at its edges.

  Args:
    image: (H, W, 3) uint8.
    window: The part that is shown; its edges may lie between pixels.
    shape: (height, width) of the result.
    interpolation: Which of the filters.
    result: Where to write to; contiguous.

  Returns:
    (height, width, 3) uint8.
  """
  height, width = image.shape[:2]
  part = touched_part(window, shape, (height, width), interpolation)
  if interpolation == "bilinear" and part.is_small():
    result = np.empty((*shape, 3), np.uint8) if result is None else result
    left, top, right, bottom = part
    # A copy, so that one kind of array is compiled for.
    pixels = image[top:bottom, left:right].copy()
    resize_image(pixels, left, top, height, width, tuple(map(float, window)), result)
    return result
  resized = PIL.Image.fromarray(image).resize(shape[::-1], _FILTERS[interpolation], box=window)
  if result is None:
    return np.array(resized)
  result[:] = resized
  return result
