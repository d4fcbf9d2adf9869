"""Random access to the encoded examples of a data set that tensorflow-datasets has prepared.

Both of its formats are read without TensorFlow: ArrayRecord, which has random access, and TFRecord,
which gets it from an index (`tfrecord.py`).
"""

import bisect
import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from resnet_jax.data import tfrecord
from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.prepared import prepare_command, prepared_dir
from resnet_jax.data.tfds_builder import INSTALL, import_tfds, open_prepared
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


class TfdsSource:
  """One split of a prepared image-classification data set, by number; any thread may read.

  Example i is the i-th in the order of the prepared files, which the builder shuffled once.

  Args:
    name: Name in tensorflow-datasets.
    split: Name of the split.
    data_dir: The data directory; see `prepared.resolve_data_dir`.

  Attributes:
    class_names: The name of each class, in the order of the labels (wnids for imagenet2012).

  Raises:
    UserError: tensorflow-datasets is missing, or the data set is not prepared, has no such split,
      is not one of images and labels, or is stored in another format.
  """

  def __init__(self, name: str, split: str, data_dir: str | None = None):
    info = open_prepared(name, data_dir).info
    if split not in info.splits:
      raise UserError(f"{name} has no split {split!r}: it has {', '.join(info.splits)}")
    self._image, self._label = _supervised_features(name, info)
    self.class_names: tuple[str, ...] = tuple(info.features[self._label].names)
    self._records = _open_records(name, info, split, data_dir)
    self._parse = _example_parser()

  def __len__(self) -> int:
    return len(self._records)

  def read(self, i: int) -> tuple[bytes, int]:
    """The image of example i, still encoded, and its label; see `ExampleSource.read`."""
    features = self.features(i)
    image, label = features[self._image].bytes_list.value, features[self._label].int64_list.value
    if len(image) != 1 or len(label) != 1:
      raise UndecodableError("the record holds no image and label")
    return image[0], label[0]

  def features(self, i: int) -> Mapping[str, Any]:
    """All features of example i, as `tf.train.Feature` messages by name."""
    return self._parse(self._records.read(i))

  def locate(self, i: int) -> str:
    """The file and record in which example i is stored."""
    path, record = self._records.locate(i)
    return f"record {record} of {path}"


class _Records(Protocol):
  def __len__(self) -> int: ...
  def read(self, i: int) -> bytes: ...
  def locate(self, i: int) -> tuple[pathlib.Path, int]: ...


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
    return self._file(shard).read([record])[0]

  def locate(self, i: int) -> tuple[pathlib.Path, int]:
    shard, record = self._position(i)
    return self._paths[shard], record

  def _position(self, i: int) -> tuple[int, int]:
    shard = bisect.bisect_right(self._starts, i) - 1
    return shard, i - self._starts[shard]


def _supervised_features(name: str, info: Any) -> tuple[str, str]:
  """Names of the image and the label among the features of a data set."""
  tfds = import_tfds()
  keys, features = info.supervised_keys, info.features
  if (
    keys is None
    or len(keys) != 2
    or not isinstance(features[keys[0]], tfds.features.Image)
    or not isinstance(features[keys[1]], tfds.features.ClassLabel)
  ):
    raise UserError(f"{name} is not a data set of images with one label each: choose another")
  return keys


def _open_records(name: str, info: Any, split: str, data_dir: str | None) -> _Records:
  paths = shard_paths(info, split)
  for path in paths:
    if not path.exists():
      raise UserError(f"{path} is missing: copy it again, or delete its folder and prepare again")
  counts = info.splits[split].shard_lengths
  file_format = info.file_format.value
  if file_format == "array_record":
    return _ArrayRecords(paths, counts)
  if file_format != "tfrecord":
    raise UserError(
      f"{name} is prepared as {file_format}, which is not read here: delete {paths[0].parent} and "
      f"run `{prepare_command(data_dir, name)}`"
    )
  index = tfrecord.load_index(index_path(name, split, data_dir), paths)
  if index is None:
    if sum(counts) > _LONG_WALK:
      logger.warning(
        "indexing %d records of %s, which `%s` would do once and for all",
        *(sum(counts), paths[0].parent, prepare_command(data_dir, name)),
      )
    index = tfrecord.build_index(paths)
  if index.counts.tolist() != list(counts):
    raise UserError(f"{paths[0].parent} is incomplete: delete it and prepare {name} again")
  return tfrecord.TFRecordReader(paths, index)


def shard_paths(info: Any, split: str) -> list[pathlib.Path]:
  """The files of a split, in their order, from the `DatasetInfo` of a prepared data set."""
  return [pathlib.Path(path) for path in info.splits[split].filepaths]


def index_path(name: str, split: str, data_dir: str | None) -> pathlib.Path:
  """Where `prepare` keeps the TFRecord index of a split."""
  return prepared_dir(data_dir, name) / f"index-{split}.npz"


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
