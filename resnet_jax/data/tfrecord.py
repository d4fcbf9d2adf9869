"""Random access to TFRecord files, which have none: an index of where each record lies.

A TFRecord file is a sequence of records: u64 length, u32 checksum of the length, the data, u32
checksum of the data, little-endian, without gaps. Walking the headers once gives every offset.
Neither the walk nor reading needs TensorFlow.

Like TensorFlow, the reader verifies both checksums of every record. The walk verifies those of the
lengths, which locate the next record. They are CRC32Cs, "masked" because the CRC of data that
contains its own CRC is meaningless (tensorflow/core/lib/hash/crc32c.h).
"""

import bisect
import concurrent.futures
import dataclasses
import functools
import pathlib
import struct
import zipfile
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np

from resnet_jax.data import prepared
from resnet_jax.data.data_folder import DataFolder, Range
from resnet_jax.data.example_source import UndecodableError
from resnet_jax.errors import UserError

_HEADER = struct.Struct("<QI")
_LENGTH_BYTES = 8
_FOOTER = struct.Struct("<I")
# Behind a record shorter than this the walk reads far enough for many more; behind a longer one,
# the next header alone.
_SHORT_RECORD = 16 << 10
_WALKED_AT_ONCE = 1 << 20
# Records in a row are read together up to this many bytes; 80 ImageNet images.
_READ_TOGETHER = 8 << 20


# Advice for damaged files, which ends error messages.
MEND = "Copy the file again, or delete its folder and prepare the data set again"


def masked_crc(data: bytes) -> int:
  """Returns the checksum of some bytes as TFRecord files store it.

  The library takes 10 microseconds for 110 kB, too short a time to be worth releasing the GIL.
  """
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class TFRecordIndex:
  """The position of each record in a list of files ("shards").

  Attributes:
    names: (S,) unicode, the files' names.
    sizes: (S,) int64, the files' sizes in bytes, to recognise a stale index.
    counts: (S,) int64, the number of records in each file.
    offsets: (N,) int64, the position of each record's data in its file, in bytes.
    lengths: (N,) int64, the size of each record's data in bytes.
  """

  names: np.ndarray
  sizes: np.ndarray
  counts: np.ndarray
  offsets: np.ndarray
  lengths: np.ndarray

  def describes(self, folder: DataFolder, names: Sequence[str]) -> bool:
    """Returns whether a folder's files have the names and sizes of the indexed ones."""
    return self.names.tolist() == list(names) and self.sizes.tolist() == folder.sizes(names)


_FIELDS = tuple(field.name for field in dataclasses.fields(TFRecordIndex))


def build_index(
  folder: DataFolder, names: Sequence[str], progress: Callable[[int], None] = lambda files: None
) -> TFRecordIndex:
  """Walks the headers of many TFRecord files at once, with one small read per record.

  Args:
    folder: The folder of the files.
    names: Their names.
    progress: Called with the number of files finished since the last call.

  Raises:
    UserError: If a file does not end where a record ends, or the checksum of a length is wrong.
    OSError: If one cannot be read.
  """
  sizes = folder.sizes(names)
  walks: list[np.ndarray] = []
  with concurrent.futures.ThreadPoolExecutor(folder.threads) as executor:
    try:
      for walk in executor.map(functools.partial(_walk, folder), names, sizes):
        walks.append(walk)
        progress(1)
    except BaseException:
      executor.shutdown(wait=False, cancel_futures=True)  # A thousand files may be waiting.
      raise
  return TFRecordIndex(
    names=np.array(names, np.str_),
    sizes=np.array(sizes, np.int64),
    counts=np.array([len(walk) for walk in walks], np.int64),
    offsets=np.concatenate([walk[:, 0] for walk in walks]),
    lengths=np.concatenate([walk[:, 1] for walk in walks]),
  )


def _walk(folder: DataFolder, name: str, size: int) -> np.ndarray:
  """Finds the offset and length of the data of each record in a file: (N, 2) int64."""
  records: list[tuple[int, int]] = []
  position = 0
  piece, piece_start, ahead = b"", 0, _HEADER.size
  with folder.reader(name) as read:
    while position + _HEADER.size <= size:
      if position + _HEADER.size > piece_start + len(piece):
        piece, piece_start = read(position, ahead), position
        if len(piece) < _HEADER.size:
          break
      start = position - piece_start
      length, checksum = _HEADER.unpack_from(piece, start)
      if checksum != masked_crc(piece[start : start + _LENGTH_BYTES]):
        raise UserError(
          f"{folder.locate(name)} is damaged at byte {position}: the length of record "
          f"{len(records)} does not fit its checksum. {MEND}"
        )
      records.append((position + _HEADER.size, length))
      position += _HEADER.size + length + _FOOTER.size
      ahead = _WALKED_AT_ONCE if length < _SHORT_RECORD else _HEADER.size
  if position != size:
    raise UserError(f"{folder.locate(name)} is cut short, or has more at its end. {MEND}")
  return np.array(records, np.int64).reshape(-1, 2)


def save_index(path: pathlib.Path, index: TFRecordIndex) -> None:
  """Writes an index as npz."""
  prepared.write_npz(path, **dataclasses.asdict(index))


def load_index(
  path: pathlib.Path, folder: DataFolder, names: Sequence[str]
) -> TFRecordIndex | None:
  """Loads the index at `path`; returns None if it is missing, damaged or of other files."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      index = TFRecordIndex(**{name: arrays[name] for name in _FIELDS})
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  return index if index.describes(folder, names) else None


class TFRecordReader:
  """Records of a folder's files by number, in the order of the index; thread-safe.

  Args:
    folder: The folder of the files.
    index: The files and the positions of their records.
  """

  def __init__(self, folder: DataFolder, index: TFRecordIndex):
    self._folder = folder
    self._index = index
    self._names: list[str] = index.names.tolist()
    # Lists, because indexing one is much faster than indexing an array.
    self._ends: list[int] = np.cumsum(index.counts).tolist()
    self._counts: list[int] = index.counts.tolist()

  def __len__(self) -> int:
    return len(self._index.offsets)

  def read(self, i: int) -> bytes:
    """Reads the data of record i.

    Raises:
      OSError: If the file cannot be read, or is shorter than when it was indexed; names both.
      UndecodableError: If a checksum differs; the message has the position of the damage.
    """
    [record] = self.read_many([i])
    if isinstance(record, Exception):
      raise record
    return record

  def read_many(self, numbers: Sequence[int]) -> list[bytes | OSError | UndecodableError]:
    """Reads several records, in order; where `read` would raise, returns the error instead.

    Consecutive records of a file are read in one piece, in whatever order they are requested.
    """
    runs = self._runs(numbers)
    pieces = self._folder.read_many([self._span(run[0], run[-1]) for run in runs])
    found: dict[int, bytes | OSError | UndecodableError] = {}
    for run, piece in zip(runs, pieces, strict=True):
      if isinstance(piece, bytes):
        begin = self._start(run[0])
        found.update((i, self._verified(i, piece, self._start(i) - begin)) for i in run)
      elif len(run) == 1:
        found[run[0]] = self._named(run[0], piece)
      else:
        # One record may be at fault, so each is read separately.
        alone = self._folder.read_many([self._span(i, i) for i in run])
        for i, data in zip(run, alone, strict=True):
          found[i] = self._verified(i, data, 0) if isinstance(data, bytes) else self._named(i, data)
    return [found[i] for i in numbers]

  def locate(self, i: int) -> tuple[str, int]:
    """Returns the path of the file that holds record i, and the record's number in it."""
    shard, record = self._position(i)
    return self._folder.locate(self._names[shard]), record

  def _position(self, i: int) -> tuple[int, int]:
    if not 0 <= i < len(self):
      raise IndexError(f"there is no record {i} of {len(self)}")
    shard = bisect.bisect_right(self._ends, i)
    return shard, i - (self._ends[shard] - self._counts[shard])

  def _runs(self, numbers: Sequence[int]) -> list[list[int]]:
    """Sorts the numbers into groups that are each read in one piece."""
    runs: list[list[int]] = []
    for i in sorted(set(numbers)):
      if (
        runs
        and runs[-1][-1] == i - 1
        and self._position(i)[1] > 0  # not the first record of a file
        and self._span(runs[-1][0], i)[2] <= _READ_TOGETHER
      ):
        runs[-1].append(i)
      else:
        runs.append([i])
    return runs

  def _start(self, i: int) -> int:
    """Returns the position of a record's header in its file, in bytes."""
    return int(self._index.offsets[i]) - _HEADER.size

  def _span(self, first: int, last: int) -> Range:
    """Returns the range of some consecutive records of a file, checksums included."""
    shard, _ = self._position(first)
    start = self._start(first)
    end = int(self._index.offsets[last] + self._index.lengths[last]) + _FOOTER.size
    return self._names[shard], start, end - start

  def _verified(self, i: int, piece: bytes, start: int) -> bytes | UndecodableError:
    """Returns the data of record i, whose header is at `start` in a piece of its file."""
    length, checksum = _HEADER.unpack_from(piece, start)
    begin = start + _HEADER.size
    end = begin + int(self._index.lengths[i])
    data = piece[begin:end]
    if length != end - begin or checksum != masked_crc(piece[start : start + _LENGTH_BYTES]):
      what = "length"
    elif masked_crc(data) != _FOOTER.unpack_from(piece, end)[0]:
      what = "data"
    else:
      return data
    return UndecodableError(
      f"its {what} does not fit the checksum, so the file is damaged after byte {self._start(i)}. "
      f"{MEND}"
    )

  def _named(self, i: int, error: OSError) -> OSError:
    path, record = self.locate(i)
    return OSError(f"record {record} of {path} cannot be read: {error}")
