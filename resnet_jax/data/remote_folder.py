"""A folder in a bucket, or at any other address that fsspec reads.

A remote store answers late, and now and then not at all. So `read_many` asks for all its ranges at
once, and what failed is asked for again, a few times, before it is an error.
"""

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from resnet_jax.data.data_folder import DataFolder, Range, Reader
from resnet_jax.data.remote_filesystem import (
  LASTING,
  RETRY_SECONDS,
  answered,
  open_filesystem,
  reason_of,
)
from resnet_jax.errors import UserError


class RemoteFolder(DataFolder):
  """A folder in a bucket, or at any other address that fsspec reads.

  Args:
    address: `gs://bucket/folder`, `s3://…`, `memory://…`, or `http://…` where the server lists its
      folders.
    filesystem: The fsspec file system, where it is known already.

  Raises:
    UserError: If fsspec, or its part for such addresses, is not installed.
  """

  threads = 256

  def __init__(self, address: str, filesystem: Any = None):
    self.address = address.rstrip("/")
    self._filesystem = filesystem or open_filesystem(address)
    self._known_sizes: dict[str, int | None] | None = None

  def child(self, name: str) -> "RemoteFolder":
    """See `DataFolder`."""
    return RemoteFolder(self.locate(name), self._filesystem)

  def names(self) -> tuple[str, ...]:
    """See `DataFolder`; asks the store once.

    Raises:
      UserError: If the store does not answer, or denies it.
    """
    return tuple(sorted(self._listing()))

  def sizes(self, names: Sequence[str]) -> list[int]:
    """See `DataFolder`."""
    listing = self._listing()
    for name in names:
      if name not in listing:
        raise FileNotFoundError(2, "No such file", self.locate(name))

    def size(name: str) -> int:
      known = listing[name]
      if known is None:  # Some listings (HTTP's) hold no sizes.
        known = listing[name] = self._ask_size(name)
      return known

    with concurrent.futures.ThreadPoolExecutor(self.threads) as executor:
      return list(executor.map(size, names))

  def read(self, name: str, start: int, length: int) -> bytes:
    """See `DataFolder`."""
    [result] = self.read_many([(name, start, length)])
    if isinstance(result, OSError):
      raise result
    return result

  def read_many(self, ranges: Sequence[Range]) -> list[bytes | OSError]:
    """See `DataFolder`; all ranges are under way at once."""
    results: dict[int, bytes | OSError] = {}
    open_ones = list(range(len(ranges)))
    for seconds in (0.0, *RETRY_SECONDS):
      if not open_ones:
        break
      time.sleep(seconds)
      answers = self._ask([ranges[k] for k in open_ones])
      results.update(zip(open_ones, answers, strict=True))
      open_ones = [k for k in open_ones if _may_pass(results[k])]
    return [results[k] for k in range(len(ranges))]

  @contextlib.contextmanager
  def reader(self, name: str) -> Iterator[Reader]:
    """See `DataFolder`."""
    [size] = self.sizes([name])
    yield lambda start, length: self.read(name, start, max(0, min(length, size - start)))

  def read_whole(self, name: str) -> bytes:
    """All bytes of a small file; raises as `read` does."""
    [size] = self.sizes([name])
    return self.read(name, 0, size)

  def locate(self, name: str) -> str:
    """See `DataFolder`."""
    return f"{self.address}/{name}"

  def _ask(self, ranges: Sequence[Range]) -> list[bytes | OSError]:
    """One attempt at each range."""
    # Some stores take an empty range for the whole file.
    asked = [k for k, (_, _, length) in enumerate(ranges) if length]
    answers: list[Any] = [b""] * len(ranges)
    if asked:
      try:
        found: Sequence[Any] = self._filesystem.cat_ranges(
          [self.locate(ranges[k][0]) for k in asked],
          [ranges[k][1] for k in asked],
          [ranges[k][1] + ranges[k][2] for k in asked],
          on_error="return",
        )
      except Exception as error:  # What a store's library raises is any class of its own.
        found = [error] * len(asked)
      for k, answer in zip(asked, found, strict=True):
        answers[k] = answer
    return [self._checked(each, answer) for each, answer in zip(ranges, answers, strict=True)]

  def _checked(self, asked: Range, answer: Any) -> bytes | OSError:
    name, start, length = asked
    if isinstance(answer, FileNotFoundError):
      return FileNotFoundError(f"{self.locate(name)} is missing")
    if isinstance(answer, PermissionError):
      return PermissionError(f"{self.locate(name)} may not be read ({reason_of(answer)})")
    if isinstance(answer, BaseException):
      return OSError(f"{self.locate(name)} cannot be read ({reason_of(answer)})")
    if len(answer) != length:
      return OSError(
        f"{self.locate(name)} gave {len(answer)} bytes instead of {length} from {start} on: it is "
        "shorter than when this run started, or the server serves no ranges"
      )
    return bytes(answer)

  def _ask_size(self, name: str) -> int:
    return int(self._answered(lambda: self._filesystem.info(self.locate(name))["size"]))

  def _answered(self, ask: Callable[[], Any]) -> Any:
    try:
      return answered(ask, self.address)
    except FileNotFoundError:
      raise
    except OSError as error:
      raise UserError(f"{error}: check the address, the network and your credentials") from None

  def _listing(self) -> dict[str, int | None]:
    """Sizes of files by name, None for folders and where the store does not say."""
    if self._known_sizes is None:
      try:
        entries = self._answered(lambda: self._filesystem.ls(self.address, detail=True))
      except FileNotFoundError:
        entries = []
      self._known_sizes = {
        entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"]
        if entry["type"] == "file"
        else None
        for entry in entries
      }
    return self._known_sizes


def _may_pass(result: bytes | OSError) -> bool:
  return isinstance(result, OSError) and not isinstance(result, LASTING)
