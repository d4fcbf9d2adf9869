"""Batches of a split on the host, in training order or once through for evaluation."""

import collections
import concurrent.futures
import itertools
import math
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import numpy as np

from resnet_jax.data.dataset import Batch, Split
from resnet_jax.data.order import training_positions

T = TypeVar("T")
U = TypeVar("U")


def training_batches(
  split: Split,
  seed: int,
  batch_size: int,
  first_step: int,
  host: int = 0,
  hosts: int = 1,
  parts: int = 1,
) -> Iterator[Batch]:
  """Yields the endless training stream, from a step on.

  Args:
    split: What to read.
    seed: The run's seed.
    batch_size: Examples in a global batch, a multiple of `hosts` times `parts`.
    first_step: Step of the first batch, so a run that resumes passes the steps it has done.
    host: Number of this process; it gets the host-th of `hosts` consecutive shares of each part.
    hosts: Number of processes.
    parts: In how many consecutive parts a batch is computed, one after another, by all hosts.
  """
  share = _share(batch_size, hosts * parts)
  part = batch_size // parts

  def fetch(step: int) -> Batch:
    starts = (step * batch_size + i * part + host * share for i in range(parts))
    runs = [training_positions(seed, split.size, start, share, split.block) for start in starts]
    return split.fetch(*map(np.concatenate, zip(*runs, strict=True)))

  yield from ahead(fetch, itertools.count(first_step), split.batches_ahead(share * parts))


def evaluation_batches(
  split: Split, batch_size: int, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
  """Yields every example once, in order; the last batch is padded with zeros.

  Batches have a further array, `real` (N,) float32: 1 for an example and 0 for padding. All hosts
  get the same number of batches, so none waits for another at the end.
  """
  share = _share(batch_size, hosts)

  def fetch(start: int) -> Batch:
    first = min(start + host * share, split.size)
    examples = np.arange(first, min(first + share, split.size), dtype=np.int32)
    # A host without examples still needs arrays of the right shapes, so it reads the last example.
    some = examples if len(examples) else np.array([split.size - 1], np.int32)
    batch = split.fetch(np.zeros_like(some), some) | {"real": np.ones(len(some), np.float32)}
    return {name: fill(array[: len(examples)], share) for name, array in batch.items()}

  yield from ahead(fetch, iter(range(0, split.size, batch_size)), split.batches_ahead(share))


def even_batch_size(examples: int, most: float, multiple: int = 1) -> int:
  """Returns the batch size with the least padding among those that need the fewest batches.

  Args:
    examples: Number of examples.
    most: The largest size; rounded up to a multiple of `multiple`.
    multiple: The size is a multiple of this.
  """
  units, largest = -(-examples // multiple), max(1, math.ceil(most / multiple))
  batches = -(-units // largest)
  return -(-units // batches) * multiple


def ahead(call: Callable[[T], U], arguments: Iterator[T], count: int) -> Iterator[U]:
  """Maps a function in threads, with `count` calls running ahead of the next result."""
  if not count:
    yield from map(call, arguments)
    return
  executor = concurrent.futures.ThreadPoolExecutor(count + 1, thread_name_prefix="fetch")
  try:
    pending = collections.deque(
      executor.submit(call, argument) for argument in itertools.islice(arguments, count + 1)
    )
    while pending:
      result = pending.popleft().result()
      pending.extend(executor.submit(call, argument) for argument in itertools.islice(arguments, 1))
      yield result
  finally:
    _shut_down(executor)


def prefetch(
  batches: Iterator[T], place: Callable[[T], U], depth: int = 2
) -> Generator[U, None, None]:
  """Reads and places `depth` batches ahead in a thread, so that neither waits for the step.

  What the thread raises is raised here, in its turn.

  Args:
    batches: Host batches.
    place: Puts one on the devices.
    depth: Batches in flight, at least 1.
  """
  end = object()

  def produce() -> object:
    batch = next(batches, end)
    return end if batch is end else place(batch)  # type: ignore[arg-type]

  worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
  try:
    pending = collections.deque(worker.submit(produce) for _ in range(depth))
    while (batch := pending.popleft().result()) is not end:
      pending.append(worker.submit(produce))
      yield batch  # type: ignore[misc]
  finally:
    _shut_down(worker)


def _shut_down(executor: concurrent.futures.Executor) -> None:
  if not sys.is_finalizing():  # Else the threads have ended, and half of Python is gone.
    executor.shutdown(cancel_futures=True)


def _share(batch_size: int, hosts: int) -> int:
  """Examples of a batch, or of a part of it, on one host."""
  if batch_size % hosts:
    raise ValueError(f"batch_size={batch_size} cannot be spread evenly over {hosts} processes")
  return batch_size // hosts


def fill(array: np.ndarray, length: int) -> np.ndarray:
  """Puts zeros behind an array, up to a length of its first axis."""
  missing = length - len(array)
  return np.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1))) if missing else array
