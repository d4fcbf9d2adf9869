"""Batches on the host: shares of hosts, resumption, evaluation's padding, reading ahead."""

import itertools
import threading
import time

import numpy as np
import pytest

from resnet_jax.data import (
  Split,
  evaluation_batches,
  positions,
  prefetch,
  training_batches,
  training_positions,
)


def numbered_split(size):
  """Adds an array of two axes to what every batch has, to see that rows stay together."""

  def fetch(epochs, examples):
    assert len(examples) > 0  # Of nothing, decoded images have no shape.
    pixels = np.stack([examples + 1, 100 * epochs + examples + 1], axis=1)
    return positions(epochs, examples) | {"pixels": pixels}

  return Split("train", size, None, fetch, view=None)


def take(count, batches):
  return list(itertools.islice(batches, count))


def assert_same(actual, expected):
  assert actual.keys() == expected.keys()
  for name, array in actual.items():
    np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("hosts", [2, 3, 6])
def test_the_shares_of_the_hosts_are_the_batch_of_one_host(hosts):
  split = numbered_split(10)
  whole = take(5, training_batches(split, seed=1, batch_size=12, first_step=0))
  shares = [take(5, training_batches(split, 1, 12, 0, host, hosts)) for host in range(hosts)]
  for step, batch in enumerate(whole):
    parts = [share[step] for share in shares]
    assert {len(part["example"]) for part in parts} == {12 // hosts}
    assert_same({name: np.concatenate([part[name] for part in parts]) for name in batch}, batch)


def test_training_drops_and_repeats_nothing_over_epochs():
  split, size = numbered_split(10), 10
  batches = take(15, training_batches(split, seed=0, batch_size=4, first_step=0))
  examples = np.concatenate([batch["example"] for batch in batches]).reshape(-1, size)
  np.testing.assert_array_equal(np.sort(examples), np.tile(np.arange(size), (6, 1)))
  epochs = np.concatenate([batch["epoch"] for batch in batches])
  np.testing.assert_array_equal(epochs, np.repeat(np.arange(6), size))
  assert all(np.all(batch["weight"] == 1) for batch in batches)


@pytest.mark.parametrize("step", [1, 4, 9])
@pytest.mark.parametrize("hosts", [1, 2])
def test_resuming_at_a_step_gives_the_same_stream(step, hosts):
  split = numbered_split(10)
  for host in range(hosts):
    through = take(step + 4, training_batches(split, 0, 4, 0, host, hosts))
    resumed = take(4, training_batches(split, 0, 4, step, host, hosts))
    for actual, expected in zip(resumed, through[step:], strict=True):
      assert_same(actual, expected)


def test_the_stream_is_that_of_the_training_order():
  batch = next(training_batches(numbered_split(10), seed=3, batch_size=4, first_step=5))
  epochs, examples = training_positions(3, 10, first=20, count=4)
  np.testing.assert_array_equal(batch["epoch"], epochs)
  np.testing.assert_array_equal(batch["example"], examples)


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("batch_size", [3, 6, 12, 24])
@pytest.mark.parametrize("size", [1, 2, 10, 12, 13])
def test_evaluation_covers_each_example_once_and_marks_the_filling(size, batch_size, hosts):
  split, share = numbered_split(size), batch_size // hosts
  streams = [list(evaluation_batches(split, batch_size, host, hosts)) for host in range(hosts)]
  assert {len(stream) for stream in streams} == {-(-size // batch_size)}
  batches = [batch for step in zip(*streams, strict=True) for batch in step]
  for batch in batches:
    assert {len(array) for array in batch.values()} == {share}
    filling = batch["real"] == 0
    assert not np.any(batch["weight"][filling])
    assert not np.any(batch["pixels"][filling])
  whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
  assert set(whole["real"]) <= {0, 1}
  real = whole["real"] == 1
  np.testing.assert_array_equal(whole["example"][real], np.arange(size))
  np.testing.assert_array_equal(whole["pixels"][real][:, 0], np.arange(size) + 1)
  assert np.all(whole["weight"][real] == 1)


def test_evaluation_keeps_the_weight_0_of_a_real_example_apart_from_filling():
  def fetch(epochs, examples):
    batch = positions(epochs, examples)
    batch["weight"][examples == 1] = 0
    return batch

  (batch,) = evaluation_batches(Split("test", 3, None, fetch, view=None), 4)
  np.testing.assert_array_equal(batch["weight"], [1, 0, 1, 0])
  np.testing.assert_array_equal(batch["real"], [1, 1, 1, 0])


def prefetch_threads():
  return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [1, 2, 20])
def test_prefetch_gives_all_in_order_as_placed(depth):
  slow_first = [0.02, 0, 0, 0.01, 0, 0, 0]

  def place(i):
    time.sleep(slow_first[i])
    return 10 * i

  assert list(prefetch(iter(range(7)), place, depth)) == [0, 10, 20, 30, 40, 50, 60]
  assert not prefetch_threads()


def test_prefetch_of_nothing_is_nothing():
  assert list(prefetch(iter(()), lambda batch: batch)) == []


@pytest.mark.parametrize("culprit", ["batches", "place"])
def test_prefetch_raises_what_the_thread_raised_in_its_turn(culprit):
  def fail(i):
    if i == 3:
      raise OSError("batch 3 cannot be read")
    return i

  batches = (fail(i) for i in range(9)) if culprit == "batches" else iter(range(9))
  stream = prefetch(batches, fail if culprit == "place" else lambda i: i)
  got = []
  with pytest.raises(OSError, match="batch 3 cannot be read"):
    for i in stream:
      got.append(i)
  assert got == [0, 1, 2]
  assert not prefetch_threads()


def test_prefetch_reads_ahead_by_its_depth_and_no_more():
  read = []

  def produce():
    for i in itertools.count():
      read.append(i)
      yield i

  stream = prefetch(produce(), lambda i: i, depth=3)
  assert read == []
  assert next(stream) == 0
  deadline = time.monotonic() + 10
  while len(read) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.05)  # For a fifth, which must not be read.
  assert read == [0, 1, 2, 3]
  stream.close()


def test_prefetch_works_while_its_user_does():
  started = threading.Event()

  def produce():
    yield 0
    started.set()
    yield 1

  stream = prefetch(produce(), lambda i: i)
  assert next(stream) == 0
  assert started.wait(10)
  stream.close()


def test_a_closed_prefetch_stops_its_thread():
  stream = prefetch(itertools.count(), lambda i: i)
  assert next(stream) == 0
  assert len(prefetch_threads()) == 1
  stream.close()
  assert not prefetch_threads()


def test_5003_examples_on_3_hosts_are_each_seen_once_an_epoch_and_counted_once():
  size, hosts, share = 5003, 3, 16
  split = numbered_split(size)
  streams = [training_batches(split, 0, hosts * share, 0, host, hosts) for host in range(hosts)]
  steps = -(-3 * size // (hosts * share))
  seen = np.concatenate([next(stream)["example"] for _ in range(steps) for stream in streams])
  for epoch in range(3):
    part = seen[epoch * size : (epoch + 1) * size]
    np.testing.assert_array_equal(np.sort(part), np.arange(size))
  counted = [
    batch["example"][batch["real"] == 1]
    for host in range(hosts)
    for batch in evaluation_batches(split, hosts * share, host, hosts)
  ]
  np.testing.assert_array_equal(np.sort(np.concatenate(counted)), np.arange(size))


def slow_split(size, seconds, ahead):
  """A split that waits for each batch, and tells how many it waits for at once."""
  waiting, most, lock = [0], [0], threading.Lock()

  def fetch(epochs, examples):
    with lock:
      waiting[0] += 1
      most[0] = max(most[0], waiting[0])
    # The first takes longest, so that the others overtake it.
    time.sleep(seconds * (3 if examples[0] == 0 else 1))
    with lock:
      waiting[0] -= 1
    return positions(epochs, examples)

  return Split("train", size, None, fetch, view=None, examples_ahead=ahead), most


def fetch_threads():
  return [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


@pytest.mark.parametrize(("ahead", "batches"), [(0, 1), (4, 2), (10, 4), (12, 4)])
def test_so_many_examples_as_a_split_asks_for_are_under_way_at_once(ahead, batches):
  split, most = slow_split(40, 0.02, ahead)
  stream = training_batches(split, 0, 4, 0)
  found = take(10, stream)
  stream.close()
  assert most[0] == batches
  assert not fetch_threads()
  want = take(10, training_batches(numbered_split(40), 0, 4, 0))
  for actual, expected in zip(found, want, strict=True):
    np.testing.assert_array_equal(actual["example"], expected["example"])
  evaluated = np.concatenate([batch["example"] for batch in evaluation_batches(split, 4)])
  np.testing.assert_array_equal(evaluated, np.arange(40))


def test_what_a_fetch_raises_is_raised_in_its_turn_and_ends_the_threads():
  def fetch(epochs, examples):
    if 8 in examples:
      raise OSError("stale file handle")
    return positions(epochs, examples)

  split = Split("validation", 40, None, fetch, view=None, examples_ahead=16)
  found = []
  with pytest.raises(OSError, match="stale file handle"):
    for batch in evaluation_batches(split, 4):
      found.extend(batch["example"])
  assert found == list(range(8))
  assert not fetch_threads()
