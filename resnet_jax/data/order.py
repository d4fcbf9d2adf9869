"""In which order a run sees its examples: one endless sequence, addressed by position.

Position p = step * batch_size + j lies in epoch p // size, and every epoch is a permutation of the
examples that depends on (seed, epoch) alone. So batches straddle epochs and nothing is dropped, a
run that resumes needs to know its step and nothing else, and the order is the same on any number of
hosts and devices.

Where a read is slow whatever its length, an epoch may be a permutation of blocks: the examples of a
block, which are stored side by side, follow each other (in an order of their own, drawn again every
epoch), so that one read brings several. Where blocks begin is drawn every epoch, too.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int, block: int = 1) -> np.ndarray:
  """A permutation of 0 … size-1, int32, by sorting the words of a counter-based generator.

  NumPy guarantees Philox's raw words for all versions, which it does not for `permutation`.

  Args:
    seed: The run's seed.
    epoch: From 0.
    size: Number of examples.
    block: How many examples that are stored side by side stay together.
  """
  key = np.array([seed % 2**64, epoch], np.uint64)
  words = np.random.Philox(key=key).random_raw(size + 1)
  if block == 1:
    order = np.argsort(words[:size], kind="stable")
  else:
    # The blocks of an epoch begin at a place of its own: what was together is torn apart in time.
    blocks = (np.arange(size) + int(words[size] % np.uint64(block))) // block
    order = np.lexsort((words[:size], words[blocks]))
  order = order.astype(np.int32)
  order.flags.writeable = False
  return order


def training_positions(
  seed: int, size: int, first: int, count: int, block: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Which examples stand at positions first … first + count - 1 of the training sequence.

  Args:
    seed: The run's seed.
    size: Number of training examples.
    first: First position.
    count: Number of positions.
    block: How many examples that are stored side by side stay together; see `epoch_order`.

  Returns:
    Epochs and examples, each (count,) int32.
  """
  epochs, places = np.divmod(np.arange(first, first + count, dtype=np.int64), size)
  examples = np.empty(count, np.int32)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    examples[here] = epoch_order(seed, int(epoch), size, block)[places[here]]
  return epochs.astype(np.int32), examples
