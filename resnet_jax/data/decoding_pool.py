"""A pool of threads that read and decode: as many at work as keep the cores decoding."""

import collections
import concurrent.futures
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Threads beyond those that decode: so many reads wait for storage at once.
_READS = 64

# What a read and a decoding are taken to last before they are measured, and how much of a measured
# mean the newest makes.
_UNKNOWN_SECONDS, _NEWEST = 1e-3, 0.05
# A decoding counts as no more than so many times the mean.
_OUTLIER = 10


class DecodingPool:
  """Threads that each take examples from storage to pixels, as many as keep the cores decoding.

  Reading waits for storage and decoding for a core. Where a read takes R and decoding D, 1 + R / D
  threads keep one core busy: one thread a core where data is at hand, dozens where storage answers
  after 20 milliseconds. R and D are measured as the pool works, and as many of its threads go to
  work; threads that only wait for a core would cost it time.

  The threads at work stay at it, from one call's items to the next's: of two that have just been
  woken, Linux may run both on one core and leave another idle for some ten milliseconds.

  Args:
    threads: How many decode at a time.
    reads: How many more may wait for storage meanwhile.
  """

  def __init__(self, threads: int, reads: int = _READS):
    self.size = threads + reads
    self._threads = threads
    self._executor = concurrent.futures.ThreadPoolExecutor(self.size, thread_name_prefix="decode")
    # A queue of tokens does what a semaphore does, in a fraction of the time.
    self._cores: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(threads):
      self._cores.put(None)
    self._lock = threading.Lock()
    self._waiting: collections.deque[tuple[_Call[Any], Any]] = collections.deque()
    self._at_work = 0
    self._read_seconds = self._decode_seconds = _UNKNOWN_SECONDS

  @contextlib.contextmanager
  def reading(self, examples: int) -> Iterator[None]:
    """Measures the reading of some examples, which is done within."""
    start = time.perf_counter()
    yield
    seconds = (time.perf_counter() - start) / examples
    self._read_seconds += _NEWEST * (seconds - self._read_seconds)

  @contextlib.contextmanager
  def decoding(self) -> Iterator[None]:
    """Waits for a core, and measures the decoding of one example, which is done within."""
    self._cores.get()
    start = time.perf_counter()
    try:
      yield
    finally:
      self._cores.put(None)
      # The first call may compile the decoder, which takes many times as long.
      seconds = min(time.perf_counter() - start, _OUTLIER * self._decode_seconds)
      self._decode_seconds += _NEWEST * (seconds - self._decode_seconds)

  def each(self, function: Callable[[T], None], items: Sequence[T]) -> None:
    """Calls a function with each item, in threads, behind the items of earlier calls.

    Returns when all are done, or raises the first exception that there was; items that none had
    begun by then are left out.

    Raises:
      RuntimeError: Python ends.
    """
    call = _Call(function, len(items))
    with self._lock:
      # First, as it may raise: nothing waits then that nobody would do.
      self._send_to_work(len(self._waiting) + len(items))
      self._waiting.extend((call, item) for item in items)
    call.wait()

  def _work(self) -> None:
    """Does what waits, until nothing does or fewer threads are wanted."""
    while True:
      with self._lock:
        if not self._waiting or self._at_work > self._wanted():
          self._at_work -= 1
          return
        call, item = self._waiting.popleft()
        self._send_to_work(len(self._waiting))
      call.do(item)

  def _send_to_work(self, waiting: int) -> None:
    """Sends as many threads to work as are wanted for so many items, at most one for each.

    Raises:
      RuntimeError: Python ends, or has no more threads, and none is at work.
    """
    try:
      for _ in range(min(self._wanted() - self._at_work, waiting)):
        self._executor.submit(self._work)
        self._at_work += 1
    except RuntimeError:
      if not self._at_work:
        raise

  def _wanted(self) -> int:
    # Rounded down: a part of reading is waiting for Python's lock, and more threads worsen that.
    waiting = int(self._threads * self._read_seconds / self._decode_seconds)
    return min(self._threads + waiting, self.size)


class _Call(Generic[T]):
  """One call of `DecodingPool.each`.

  Args:
    function: What to call with each item.
    items: How many there are.
  """

  def __init__(self, function: Callable[[T], None], items: int):
    self._function = function
    self._left = items
    self._lock = threading.Lock()
    self._done = threading.Event()
    self._error: BaseException | None = None
    if not items:
      self._done.set()

  def do(self, item: T) -> None:
    """Calls the function with an item, unless it has raised before."""
    error = None
    try:
      if self._error is None:
        self._function(item)
    except BaseException as raised:
      error = raised
    with self._lock:
      self._error = self._error or error
      self._left -= 1
      if not self._left:
        self._done.set()

  def wait(self) -> None:
    """Waits for all items, and raises what the function raised."""
    self._done.wait()
    if self._error is not None:
      raise self._error
