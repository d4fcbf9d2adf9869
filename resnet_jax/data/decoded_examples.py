"""The `fetch` of a streaming split: examples by number, read and decoded in a pool of threads."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from resnet_jax.data.cached_source import Cached, CachedSource
from resnet_jax.data.dataset import Batch, positions
from resnet_jax.data.decoding_pool import DecodingPool
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# So many bad records are warned of one by one, and then the 16th, 32nd, 64th, …
_WARNINGS = 8

# (epoch, example, encoded or decoded image, result): writes uint8 pixels to the result, which has
# the shape that a split shows.
Show = Callable[[int, int, bytes | np.ndarray, np.ndarray], None]


class DecodedExamples:
  """The `fetch` of a split: reads and decodes examples in a pool of threads.

  Args:
    source: Encoded images.
    examples: Which of the source's examples are this split's.
    show: What of an image is shown.
    shape: Shape of what `show` writes.
    pool: The threads.
    together: How many examples that are stored side by side may be read at once.
    skip: What to do about a record that is no image: to keep its place, as zeros of weight 0, with
      a warning the first time; or to raise.

  Attributes:
    undecodable: Numbers, in the split, of the records met so far that are not images.
  """

  def __init__(
    self,
    source: ExampleSource | CachedSource,
    examples: range,
    show: Show,
    shape: tuple[int, ...],
    pool: DecodingPool,
    together: int = 1,
    skip: bool = True,
  ):
    self._source = source
    self._examples = examples
    self._show = show
    self._shape = shape
    self._pool = pool
    self._together = together
    self._skip = skip
    self._lock = threading.Lock()
    self.undecodable: set[int] = set()

  def __call__(self, epochs: np.ndarray, examples: np.ndarray) -> Batch:
    """Adds to `positions`: `image` (N, *shape) uint8 and `label` (N,) int32.

    Raises:
      IndexError: The split has no such example.
      UserError: A record is no image, and is not to be skipped.
      OSError: Storage fails.
    """
    batch = positions(epochs, examples)
    batch["image"] = np.empty((len(examples), *self._shape), np.uint8)
    batch["label"] = np.zeros(len(examples), np.int32)

    def decode(row: int, image: bytes | np.ndarray, label: int) -> None:
      batch["label"][row] = label
      self._show(int(epochs[row]), int(examples[row]), image, batch["image"][row])

    for row in self._decode(examples, decode):
      batch["image"][row] = batch["weight"][row] = 0
    return batch

  def each(
    self, examples: np.ndarray, show: Callable[[bytes | np.ndarray], T]
  ) -> list[tuple[T | None, int]]:
    """Applies `show` to each example; returns results and labels, None for undecodable images.

    Raises as a call does.
    """
    shown: list[tuple[T | None, int]] = [(None, 0)] * len(examples)

    def decode(row: int, image: bytes | np.ndarray, label: int) -> None:
      shown[row] = show(image), label

    self._decode(examples, decode)
    return shown

  def _decode(
    self, examples: np.ndarray, decode: Callable[[int, bytes | np.ndarray, int], None]
  ) -> list[int]:
    """Calls `decode(row, image, label)` in threads; gives the rows of what is no image."""
    if len(examples) and not 0 <= min(examples) <= max(examples) < len(self._examples):
      raise IndexError(f"examples {min(examples)} to {max(examples)} of {len(self._examples)}")
    undecodable: list[int] = []

    def visit(row: int, found: Cached | UndecodableError | OSError) -> None:
      try:
        if isinstance(found, Exception):
          raise found
        with self._pool.decoding():
          decode(row, *found)
      except UndecodableError as error:
        self._report(int(examples[row]), error)
        undecodable.append(row)

    numbers = [self._examples[example] for example in examples.tolist()]

    def read_and_visit(rows: Sequence[int]) -> None:
      with self._pool.reading(len(rows)):
        found = self._source.read_many([numbers[row] for row in rows])
      for row, one in zip(rows, found, strict=True):
        visit(row, one)

    self._pool.each(read_and_visit, side_by_side(numbers, self._together))
    return undecodable

  def showing(self, show: Show, shape: tuple[int, ...]) -> "DecodedExamples":
    """The same examples, of which something else is shown."""
    return DecodedExamples(
      self._source, self._examples, show, shape, self._pool, self._together, self._skip
    )

  def _report(self, example: int, error: UndecodableError) -> None:
    place = self._source.locate(self._examples[example])
    if not self._skip:
      raise UserError(
        f"{place} is no whole image ({error}): mend or remove it, or let such records count "
        "nothing with data.streaming.undecodable=skip"
      ) from None
    with self._lock:
      new = example not in self.undecodable
      self.undecodable.add(example)
      count = len(self.undecodable)
    if new and (count <= _WARNINGS or count & (count - 1) == 0):
      logger.warning("%s is no whole image (%s) and counts nothing; %d so far", place, error, count)


def side_by_side(numbers: Sequence[int], most: int) -> list[list[int]]:
  """The places of numbers in a list, in groups of at most `most` that follow each other."""
  if most == 1:
    return [[place] for place in range(len(numbers))]
  groups: list[list[int]] = []
  for place in sorted(range(len(numbers)), key=numbers.__getitem__):
    group = groups[-1] if groups else []
    if group and len(group) < most and numbers[place] == numbers[group[-1]] + 1:
      group.append(place)
    else:
      groups.append([place])
  return groups
