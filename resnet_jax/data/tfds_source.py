"""Random access to the encoded examples of a data set that tensorflow-datasets has prepared.

Both of its formats are read without TensorFlow: ArrayRecord, which has random access, and TFRecord,
which gets it from an index (`tfrecord.py`), from a bucket too.
"""

import bisect
import functools
import hashlib
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from resnet_jax.data import tfrecord
from resnet_jax.data.data_folder import LocalFolder
from resnet_jax.data.example_source import Example, ExampleSource, UndecodableError
from resnet_jax.data.prepared import prepare_command, prepared_dir
from resnet_jax.data.tfds_builder import INSTALL
from resnet_jax.data.tfds_prepared import PreparedSet, open_prepared, supervised_features
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

# Each open ArrayRecord file holds a descriptor, and ImageNet has a thousand files: two splits must
# stay well below the usual limit of 1,024.
_OPEN_FILES = 256

# Records that take more than a moment to index.
_LONG_WALK = 100_000


def prepared_splits(name: str, data_dir: str | None) -> tuple[str, ...]:
  """The names of the splits of a prepared data set.

  Raises:
    UserError: tensorflow-datasets is missing, or the data set is not prepared.
  """
  return tuple(open_prepared(name, data_dir).info.splits)


class TfdsSource(ExampleSource):
  """One split of a prepared image-classification data set, by number; any thread may read.

  Example i is the i-th in the order of the prepared files, which the builder shuffled once.

  Args:
    name: Name in tensorflow-datasets; see `tfds_prepared.find_folder`.
    split: Name of the split.
    data_dir: The data directory, local or in a bucket; see `prepared.chosen_data_dir`.
    own_root: Where `prepare` keeps its own files; see `prepared.prepared_dir`.
    opened: The data set, if it has been opened already.

  Raises:
    UserError: tensorflow-datasets is missing, or the data set is not prepared, has no such split,
      is not one of images and labels, or is stored in another format.
  """

  def __init__(
    self,
    name: str,
    split: str,
    data_dir: str | None = None,
    own_root: str | None = None,
    opened: PreparedSet | None = None,
  ):
    opened = opened or open_prepared(name, data_dir, own_root)
    info = opened.info
    if split not in info.splits:
      raise UserError(f"{name} has no split {split!r}: it has {', '.join(info.splits)}")
    self._image, self._label = supervised_features(name, info)
    self._class_names: tuple[str, ...] = tuple(info.features[self._label].names)
    sizes = _sizes(opened, split)
    self._records = _open_records(opened, split, data_dir, own_root)
    described = (opened.shard_names(split), info.splits[split].shard_lengths, sizes)
    self._identity = hashlib.blake2b(repr(described).encode(), digest_size=8).hexdigest()
    self._parse = _example_parser()

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of each class, in the order of the labels (wnids for imagenet2012)."""
    return self._class_names

  @property
  def identity(self) -> str:
    """A hash of the names and sizes of the files, and of how many examples each holds."""
    return self._identity

  def __len__(self) -> int:
    return len(self._records)

  def read(self, i: int) -> Example:
    """The image of example i, still encoded, and its label; see `ExampleSource.read`."""
    return self._example(self._records.read(i))

  def read_many(self, numbers: Sequence[int]) -> list[Example | UndecodableError | OSError]:
    """See `ExampleSource.read_many`.

    TFRecords that follow one another are read in one piece, and in a bucket all pieces at once.
    """
    examples: list[Example | UndecodableError | OSError] = []
    for record in self._records.read_many(numbers):
      try:
        examples.append(record if isinstance(record, Exception) else self._example(record))
      except UndecodableError as error:
        examples.append(error)
    return examples

  def features(self, i: int) -> Mapping[str, Any]:
    """All features of example i, as `tf.train.Feature` messages by name."""
    return self._parse(self._records.read(i))

  def values(self, feature: str, numbers: Sequence[int]) -> list[bytes]:
    """One feature of bytes of many examples; raises as `read` does."""
    values = []
    for record in self._records.read_many(numbers):
      if isinstance(record, Exception):
        raise record
      values.append(self._parse(record)[feature].bytes_list.value[0])
    return values

  def locate(self, i: int) -> str:
    """The file and record in which example i is stored."""
    path, record = self._records.locate(i)
    return f"record {record} of {path}"

  def _example(self, record: bytes) -> Example:
    features = self._parse(record)
    image, label = features[self._image].bytes_list.value, features[self._label].int64_list.value
    if len(image) != 1 or len(label) != 1:
      raise UndecodableError("the record holds no image and label")
    if not 0 <= label[0] < len(self._class_names):
      # tensorflow-datasets writes -1 where the authors keep the labels to themselves.
      raise UndecodableError(f"the record's label is {label[0]}")
    return image[0], label[0]


class _Records(Protocol):
  def __len__(self) -> int: ...
  def read(self, i: int) -> bytes: ...
  def read_many(self, numbers: Sequence[int]) -> list[bytes | OSError | UndecodableError]: ...
  def locate(self, i: int) -> tuple[str, int]: ...


class _ArrayRecords:
  """Records of a list of ArrayRecord files by number."""

  def __init__(self, paths: Sequence[pathlib.Path], counts: Sequence[int]):
    try:
      from array_record.python import array_record_module
    except ImportError as error:
      raise UserError(f"ArrayRecord files need array_record ({error}): {INSTALL}") from None

    def open_file(shard: int) -> Any:
      # Random access gains nothing from reading ahead.
      return array_record_module.ArrayRecordReader(
        os.fspath(paths[shard]), options="readahead_buffer_size:0", file_reader_buffer_size=32768
      )

    self._file = functools.lru_cache(_OPEN_FILES)(open_file)
    self._paths = paths
    self._starts = (0, *itertools.accumulate(counts))

  def __len__(self) -> int:
    return self._starts[-1]

  def read(self, i: int) -> bytes:
    shard, record = self._position(i)
    file = self._file(shard)
    try:
      return file.read([record])[0]
    except RuntimeError as error:  # A checksum differs, or the file cannot be opened or read.
      reason, *_ = str(error).splitlines()
      if not self._paths[shard].is_file():
        raise OSError(f"{self._paths[shard]} cannot be read: {reason}") from None
      raise UndecodableError(f"the file is damaged: {reason}. {tfrecord.MEND}") from None

  def read_many(self, numbers: Sequence[int]) -> list[bytes | OSError | UndecodableError]:
    records: list[bytes | OSError | UndecodableError] = []
    for i in numbers:
      try:
        records.append(self.read(i))
      except (OSError, UndecodableError) as error:
        records.append(error)
    return records

  def locate(self, i: int) -> tuple[str, int]:
    shard, record = self._position(i)
    return str(self._paths[shard]), record

  def _position(self, i: int) -> tuple[int, int]:
    shard = bisect.bisect_right(self._starts, i) - 1
    return shard, i - self._starts[shard]


def _sizes(opened: PreparedSet, split: str) -> list[int]:
  """Bytes of each file of a split."""
  try:
    return opened.folder.sizes(opened.shard_names(split))
  except FileNotFoundError as error:
    raise UserError(
      f"{error.filename} is missing: copy it again, or delete its folder and prepare again"
    ) from None


def _open_records(
  opened: PreparedSet, split: str, data_dir: str | None, own_root: str | None
) -> _Records:
  name, folder, names = opened.name, opened.folder, opened.shard_names(split)
  counts = opened.info.splits[split].shard_lengths
  file_format = opened.info.file_format.value
  where = os.path.dirname(folder.locate(names[0]))
  command = prepare_command(data_dir, name, own_root)
  if file_format == "array_record":
    if not isinstance(folder, LocalFolder):
      raise UserError(
        f"{where} holds ArrayRecord files, which are read from local folders alone: mount the "
        "bucket (gcsfuse), or prepare the set as TFRecord"
      )
    return _ArrayRecords([folder.path / file for file in names], counts)
  if file_format != "tfrecord":
    raise UserError(
      f"{name} is prepared as {file_format}, which is not read here: delete {where} and "
      f"run `{command}`"
    )
  index = tfrecord.load_index(index_path(name, split, data_dir, own_root), folder, names)
  if index is None:
    if sum(counts) > _LONG_WALK:
      logger.warning(
        "indexing %d records of %s, which `%s` would do once and for all",
        *(sum(counts), where, command),
      )
    index = tfrecord.build_index(folder, names)
  if index.counts.tolist() != list(counts):
    raise UserError(f"{where} is incomplete: delete it and prepare {name} again")
  return tfrecord.TFRecordReader(folder, index)


def index_path(
  name: str, split: str, data_dir: str | None, own_root: str | None = None
) -> pathlib.Path:
  """Where `prepare` keeps the TFRecord index of a split; see `prepared.prepared_dir`."""
  return prepared_dir(data_dir, name, own_root) / f"index-{split}.npz"


def _example_parser() -> Callable[[bytes], Mapping[str, Any]]:
  """From the bytes of a `tf.train.Example` to its features.

  The message class comes with tensorflow-datasets. It takes 2 microseconds, where tfds's own
  `deserialize_example_np` takes 30, and neither loads TensorFlow.
  """
  from google.protobuf.message import DecodeError
  from tensorflow_datasets.proto import tf_example_pb2

  def parse(record: bytes) -> Mapping[str, Any]:
    try:
      return tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
      raise UndecodableError(f"the record is not a tf.train.Example: {error}") from None

  return parse
