"""Reading and decoding in a pool of threads: the `fetch` of a streaming split."""

import concurrent.futures
import functools
import logging
import threading
from collections.abc import Callable

import numpy as np

from resnet_jax.data import decode
from resnet_jax.data.config import StreamingConfig
from resnet_jax.data.dataset import Batch, positions
from resnet_jax.data.decode import Window
from resnet_jax.data.example_source import ExampleSource, UndecodableError

logger = logging.getLogger(__name__)

# (epoch, example, height, width) -> the part of the stored image that is shown.
WindowOf = Callable[[int, int, int, int], Window]


def training_window(
  settings: StreamingConfig, seed: int, epoch: int, example: int, height: int, width: int
) -> Window:
  """Scale jitter and random crop of one example in one epoch; see `decode.training_window`."""
  words = decode.random_words(seed, epoch, example, 3)
  short_sides = (settings.short_side_min, settings.short_side_max)
  return decode.training_window(height, width, words, short_sides, settings.image_size)


def evaluation_window(
  settings: StreamingConfig, epoch: int, example: int, height: int, width: int
) -> Window:
  """The centre crop, the same in every epoch; see `decode.center_window`."""
  del epoch, example
  return decode.center_window(height, width, settings.short_side_evaluation, settings.image_size)


class DecodedExamples:
  """The `fetch` of a split: reads and decodes examples in a pool of threads.

  A record that is not an image keeps its place, as zeros of weight 0, and is warned of once.

  Args:
    source: Encoded images.
    examples: Which of the source's examples are this split's.
    window: Which part of an image is shown: from (epoch, example, height, width).
    size: Height and width of the crop, in pixels.
    executor: The threads.

  Attributes:
    undecodable: Numbers, in the split, of the records met so far that are not images.
  """

  def __init__(
    self,
    source: ExampleSource,
    examples: range,
    window: WindowOf,
    size: int,
    executor: concurrent.futures.Executor,
  ):
    self._source = source
    self._examples = examples
    self._window = window
    self._size = size
    self._executor = executor
    self._lock = threading.Lock()
    self.undecodable: set[int] = set()

  def __call__(self, epochs: np.ndarray, examples: np.ndarray) -> Batch:
    """Adds to `positions`: `image` (N, size, size, 3) uint8 and `label` (N,) int32."""
    batch = positions(epochs, examples)
    batch["image"] = np.zeros((len(examples), self._size, self._size, 3), np.uint8)
    batch["label"] = np.zeros(len(examples), np.int32)

    def fill(row: int) -> None:
      epoch, example = int(epochs[row]), int(examples[row])
      window = functools.partial(self._window, epoch, example)
      try:
        encoded, batch["label"][row] = self._source.read(self._examples[example])
        batch["image"][row] = decode.decode_crop(encoded, window, self._size)
      except UndecodableError as error:
        batch["weight"][row] = 0
        self._report(example, error)

    # A list, so that an exception in a thread is raised here.
    list(self._executor.map(fill, range(len(examples))))
    return batch

  def _report(self, example: int, error: UndecodableError) -> None:
    with self._lock:
      new = example not in self.undecodable
      self.undecodable.add(example)
      count = len(self.undecodable)
    if new:
      place = self._source.locate(self._examples[example])
      logger.warning("%s is no image (%s) and counts nothing; %d so far", place, error, count)
