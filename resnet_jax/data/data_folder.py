"""Files of one folder by ranges of bytes, wherever it lies; and such a folder on a local disk.

Any thread may read; no file is held open.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

# Name of a file, first byte, number of bytes.
Range = tuple[str, int, int]
# From first byte and number of bytes to those that there are: fewer at the end of the file.
Reader = Callable[[int, int], bytes]


class DataFolder(Protocol):
  """A folder of files that do not change while they are read; any thread may."""

  # How many threads read small pieces of it best: they wait for storage, not for cores.
  threads: int

  def child(self, name: str) -> "DataFolder":
    """A folder in this one, which need not be there."""
    ...

  def names(self) -> tuple[str, ...]:
    """Names of the files and folders in it, sorted; none if it is not there."""
    ...

  def sizes(self, names: Sequence[str]) -> list[int]:
    """Bytes of each of its files.

    Raises:
      FileNotFoundError: If one is not there; its `filename` says which.
    """
    ...

  def read(self, name: str, start: int, length: int) -> bytes:
    """Bytes start … start+length-1 of a file.

    Raises:
      OSError: If they cannot be read, or the file ends before them.
    """
    ...

  def read_many(self, ranges: Sequence[Range]) -> list[bytes | OSError]:
    """As `read`, of many ranges; what it would have raised stands in the range's place."""
    ...

  def reader(self, name: str) -> contextlib.AbstractContextManager[Reader]:
    """For many reads of one file, whose end may come first."""
    ...

  def locate(self, name: str) -> str:
    """The path or address of a file, for messages."""
    ...


class LocalFolder(DataFolder):
  """A folder of this machine's file system.

  Args:
    path: Where it lies.
  """

  threads = 32

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._directory = os.fspath(path)

  def child(self, name: str) -> "LocalFolder":
    """See `DataFolder`."""
    return LocalFolder(self.path / name)

  def names(self) -> tuple[str, ...]:
    """See `DataFolder`."""
    try:
      return tuple(sorted(os.listdir(self.path)))
    except (FileNotFoundError, NotADirectoryError):
      return ()

  def sizes(self, names: Sequence[str]) -> list[int]:
    """See `DataFolder`."""
    return [(self.path / name).stat().st_size for name in names]

  def read(self, name: str, start: int, length: int) -> bytes:
    """See `DataFolder`."""
    # Opened each time (3 microseconds on a local disk, where decoding takes 800): a thousand shards
    # held open would exceed the usual limit of 1,024 files. `reader` would cost as much again.
    descriptor = os.open(os.path.join(self._directory, name), os.O_RDONLY)
    try:
      data = os.pread(descriptor, length, start)
    finally:
      os.close(descriptor)
    if len(data) != length:
      raise OSError(f"{self.locate(name)} is shorter than when this run started")
    return data

  def read_many(self, ranges: Sequence[Range]) -> list[bytes | OSError]:
    """See `DataFolder`."""
    results: list[bytes | OSError] = []
    for each in ranges:
      try:
        results.append(self.read(*each))
      except OSError as error:
        results.append(error)
    return results

  @contextlib.contextmanager
  def reader(self, name: str) -> Iterator[Reader]:
    """See `DataFolder`."""
    descriptor = os.open(self.path / name, os.O_RDONLY)
    try:
      yield lambda start, length: os.pread(descriptor, length, start)
    finally:
      os.close(descriptor)

  def locate(self, name: str) -> str:
    """See `DataFolder`."""
    return str(self.path / name)
