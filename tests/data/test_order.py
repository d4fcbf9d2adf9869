"""The order of the examples: permutations that never change, and positions in them."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats

from resnet_jax.data import epoch_order, training_positions


@pytest.mark.parametrize("size", [1, 2, 1257])
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_epoch_is_a_permutation(size, epoch):
  order = epoch_order(7, epoch, size)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_orders_differ_by_seed_and_by_epoch():
  orders = {epoch_order(seed, epoch, 50).tobytes() for seed in range(10) for epoch in range(10)}
  assert len(orders) == 100


@pytest.mark.parametrize(
  ("seed", "epoch", "size", "first"),
  [
    (0, 0, 10, [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]),
    (1, 0, 10, [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]),
    (0, 1, 10, [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]),
    (3, 7, 50_000, [46378, 29333, 3100, 2164, 8385, 30748, 9591, 11101]),
  ],
)
def test_the_order_of_a_seed_is_known_and_stays(seed, epoch, size, first):
  np.testing.assert_array_equal(epoch_order(seed, epoch, size)[: len(first)], first)


def test_all_permutations_are_equally_likely():
  size, epochs = 4, 4800
  found = [tuple(epoch_order(0, epoch, size).tolist()) for epoch in range(epochs)]
  _, counts = np.unique(found, axis=0, return_counts=True)
  assert len(counts) == math.factorial(size)
  assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_an_order_that_is_kept_cannot_be_changed_by_its_users():
  with pytest.raises(ValueError, match="read-only"):
    epoch_order(0, 0, 10)[0] = 1


@pytest.mark.parametrize("seeds", [(-1, 0), (-1, -2), (2**63, 2**63 + 1)])
def test_seeds_of_all_64_bits_and_negative_ones_have_their_own_orders(seeds):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    first, second = (epoch_order(seed, 0, 50).tolist() for seed in seeds)
  assert first != second


def endless(seed, size, length):
  """Epochs and examples of the whole sequence, epoch after epoch."""
  count = math.ceil(length / size)
  examples = np.concatenate([epoch_order(seed, epoch, size) for epoch in range(count)])
  return np.repeat(np.arange(count), size)[:length], examples[:length]


@pytest.mark.parametrize("first", [0, 3, 6, 7, 13, 100])
@pytest.mark.parametrize("count", [1, 7, 8, 30])
def test_positions_go_on_through_epochs_also_where_a_batch_is_larger_than_one(first, count):
  size, seed = 7, 5
  epochs, examples = training_positions(seed, size, first, count)
  expected_epochs, expected_examples = endless(seed, size, first + count)
  np.testing.assert_array_equal(epochs, expected_epochs[first:])
  np.testing.assert_array_equal(examples, expected_examples[first:])
  assert epochs.dtype == examples.dtype == np.int32
  assert len(examples) == count


def test_positions_beyond_32_bits_are_exact():
  size = 10
  epochs, examples = training_positions(0, size, 10**10, 3 * size)
  np.testing.assert_array_equal(epochs, np.repeat(10**9 + np.arange(3), size))
  np.testing.assert_array_equal(
    np.sort(examples.reshape(3, size)), np.tile(np.arange(size), (3, 1))
  )


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 1257])
@pytest.mark.parametrize("block", [2, 16, 5000])
def test_in_blocks_every_epoch_is_a_permutation_too(size, block):
  for epoch in range(4):
    order = epoch_order(7, epoch, size, block)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_a_block_holds_what_is_stored_side_by_side_in_an_order_of_its_own():
  size, block = 1000, 16
  order = epoch_order(3, 1, size, block)
  # Where blocks begin: the one place of sixteen by which each run of neighbours is one block.
  runs = [(order + offset) // block for offset in range(block)]
  changes = [(np.diff(run) != 0).sum() + 1 - len(np.unique(run)) for run in runs]
  [offset] = np.flatnonzero(np.array(changes) == 0)
  blocks = (order + offset) // block
  starts = np.flatnonzero(np.diff(blocks, prepend=-1))
  inside = [order[i : i + block] for i in starts[:-1]]
  assert sum(np.all(np.diff(run) == 1) for run in inside) < 3  # Not as stored …
  assert len({tuple(run - run.min()) for run in inside}) > 40  # … but each otherwise.
  assert (np.abs(np.diff(blocks[starts])) == 1).mean() < 0.1


def test_blocks_begin_elsewhere_in_another_epoch():
  together = set()
  for epoch in range(20):
    order = epoch_order(0, epoch, 320, 16)
    at = np.argsort(order)
    together.add(abs(int(at[100]) - int(at[101])) < 16)
  assert together == {True, False}
