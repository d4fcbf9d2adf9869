"""Keeping a source's images in memory, as they are stored or decoded."""

import logging
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

from resnet_jax.data.decode import decode_image
from resnet_jax.data.example_source import Example, ExampleSource, UndecodableError
from resnet_jax.data.jpeg_header import read_frame
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

# Of so many images the size is averaged before anything is kept.
_SAMPLE = 128

Kind = Literal["encoded", "decoded"]
# An image, encoded or as (H, W, 3) uint8 pixels, and its label.
Cached = tuple[bytes | np.ndarray, int]


class CachedSource:
  """The `read_many` of an `ExampleSource`, which reads, or reads and decodes, each example once.

  What was read once is kept; nothing is read ahead. Decoded images are pixels in place of bytes.

  Args:
    source: Where from.
    kind: Whether to keep images as they are stored, or their pixels.
  """

  def __init__(self, source: ExampleSource, kind: Kind):
    self._source = source
    self._kind = kind
    self._kept: dict[int, Cached] = {}

  def read_many(self, numbers: Sequence[int]) -> list[Cached | UndecodableError | OSError]:
    """As `ExampleSource.read_many`, of what is not kept yet."""
    new = [i for i in numbers if i not in self._kept]
    found = dict(zip(new, map(self._keep, new, self._source.read_many(new)), strict=True))
    return [found[i] if i in found else self._kept[i] for i in numbers]

  def _keep(
    self, i: int, example: Example | UndecodableError | OSError
  ) -> Cached | UndecodableError | OSError:
    if isinstance(example, Exception):
      return example
    encoded, label = example
    try:
      image = encoded if self._kind == "encoded" else decode_image(encoded)
    except UndecodableError as error:
      return error
    self._kept[i] = image, label
    return image, label

  def locate(self, i: int) -> str:
    """Where example i is stored, for messages."""
    return self._source.locate(i)


def require_memory(sources: Sequence[ExampleSource], kind: Kind, name: str) -> None:
  """Says how much memory it will take to keep the images of some sources.

  Args:
    sources: What is to be kept, on each host.
    kind: See `CachedSource`.
    name: Of the data set.

  Raises:
    UserError: It is more than the machine has.
  """
  size = sum(_estimated_bytes(source, kind) for source in sources)
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  count = sum(map(len, sources))
  said = f"keeping the {count} {kind} images of {name} takes about {size / 2**30:.2f} GiB"
  if size > memory:
    raise UserError(
      f"{said}, and this machine has {memory / 2**30:.0f} GiB: set data.streaming.cache to "
      f"{'encoded, or to ' if kind == 'decoded' else ''}nothing"
    )
  logger.warning("%s of memory on each host", said)


def _estimated_bytes(source: ExampleSource, kind: Kind) -> float:
  """The size of some images that are evenly spread, times their number."""
  numbers = np.unique(np.linspace(0, len(source) - 1, min(_SAMPLE, len(source))).astype(int))
  sizes = []
  for number in numbers.tolist():
    try:
      encoded, _ = source.read(number)
      frame = read_frame(encoded) if kind == "decoded" else None
      if frame is not None:
        sizes.append(3 * frame.height * frame.width)
      else:
        sizes.append(len(encoded) if kind == "encoded" else decode_image(encoded).nbytes)
    except UndecodableError:
      continue
  return len(source) * float(np.mean(sizes)) if sizes else 0.0
