"""Random access to TFRecord files, which have none: an index of where each record lies.

A TFRecord file is a run of records: u64 length, u32 checksum of the length, the data, u32 checksum
of the data, little-endian, with nothing between. Walking the headers once gives every offset. No
TensorFlow is needed, neither for the walk nor for reading.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import struct
import zipfile
from collections.abc import Sequence

import numpy as np

from resnet_jax.data import prepared
from resnet_jax.errors import UserError

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
# The walk waits for storage, not for cores.
_INDEXING_THREADS = 32


@dataclasses.dataclass(frozen=True)
class TFRecordIndex:
  """Where each record of a list of files ("shards") lies.

  Attributes:
    names: (S,) unicode, the files' names.
    sizes: (S,) int64, the files' sizes in bytes, by which a stale index is known.
    counts: (S,) int64, the number of records in each file.
    offsets: (N,) int64, where each record's data begins in its file.
    lengths: (N,) int64, the bytes of each record's data.
  """

  names: np.ndarray
  sizes: np.ndarray
  counts: np.ndarray
  offsets: np.ndarray
  lengths: np.ndarray

  def describes(self, paths: Sequence[pathlib.Path]) -> bool:
    """Whether the files at `paths` have the names and sizes of those that were indexed."""
    return self.names.tolist() == [path.name for path in paths] and self.sizes.tolist() == [
      path.stat().st_size for path in paths
    ]


_FIELDS = tuple(field.name for field in dataclasses.fields(TFRecordIndex))


def build_index(paths: Sequence[pathlib.Path]) -> TFRecordIndex:
  """Walks the headers of TFRecord files: one read of 12 bytes a record.

  Raises:
    UserError: If a file does not end where a record ends.
  """
  with concurrent.futures.ThreadPoolExecutor(_INDEXING_THREADS) as executor:
    walks = list(executor.map(_walk, paths))
  return TFRecordIndex(
    names=np.array([path.name for path in paths], np.str_),
    sizes=np.array([path.stat().st_size for path in paths], np.int64),
    counts=np.array([len(walk) for walk in walks], np.int64),
    offsets=np.concatenate([walk[:, 0] for walk in walks]),
    lengths=np.concatenate([walk[:, 1] for walk in walks]),
  )


def _walk(path: pathlib.Path) -> np.ndarray:
  """(N, 2) int64: offset and length of the data of each record in a file."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    size = os.fstat(descriptor).st_size
    records, position = [], 0
    while position < size:
      header = os.pread(descriptor, _HEADER.size, position)
      if len(header) < _HEADER.size:
        break
      length, _ = _HEADER.unpack(header)
      records.append((position + _HEADER.size, length))
      position += _HEADER.size + length + _FOOTER_BYTES
  finally:
    os.close(descriptor)
  if position != size:
    raise UserError(
      f"{path} is damaged or cut short: copy it again, or delete its folder and prepare again"
    )
  return np.array(records, np.int64).reshape(-1, 2)


def save_index(path: pathlib.Path, index: TFRecordIndex) -> None:
  """Writes an index as npz."""
  prepared.write_npz(path, **dataclasses.asdict(index))


def load_index(path: pathlib.Path, paths: Sequence[pathlib.Path]) -> TFRecordIndex | None:
  """The index stored at `path` if it is there, whole, and describes the files at `paths`."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      index = TFRecordIndex(**{name: arrays[name] for name in _FIELDS})
  except (OSError, ValueError, KeyError, zipfile.BadZipFile):
    return None
  return index if index.describes(paths) else None


class TFRecordReader:
  """Records of a list of files by number, in the files' order; any thread may read.

  Args:
    paths: The files, as they were indexed.
    index: Where their records lie.
  """

  def __init__(self, paths: Sequence[pathlib.Path], index: TFRecordIndex):
    self._index = index
    self._ends = np.cumsum(index.counts)
    self._paths = paths

  def __len__(self) -> int:
    return len(self._index.offsets)

  def read(self, i: int) -> bytes:
    """The data of record i.

    Raises:
      OSError: If the file cannot be read, or is shorter than when it was indexed.
    """
    path, _ = self.locate(i)
    length = int(self._index.lengths[i])
    # Opened each time (3 microseconds on a local disk, where decoding takes 3,000): a thousand
    # shards held open would exceed the usual limit of 1,024 files.
    descriptor = os.open(path, os.O_RDONLY)
    try:
      data = os.pread(descriptor, length, int(self._index.offsets[i]))
    finally:
      os.close(descriptor)
    if len(data) != length:
      raise OSError(f"{path} is shorter than when this run started")
    return data

  def locate(self, i: int) -> tuple[pathlib.Path, int]:
    """The file that holds record i, and the record's number in it."""
    shard = int(np.searchsorted(self._ends, i, side="right"))
    return self._paths[shard], i - int(self._ends[shard] - self._index.counts[shard])
