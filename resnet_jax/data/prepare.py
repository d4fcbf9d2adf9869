"""`resnet-jax prepare`: everything that a data set needs before it can be trained on.

The tfds builder runs first. Then a set that fits in memory is packed into one file that training
reads without tensorflow-datasets, and a set that is streamed gets the statistics of its training
split and, for TFRecord files, the index that gives them random access. What is already there is
kept, so an interrupted run is simply started again.
"""

import functools
import sys
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
import tqdm

from resnet_jax.data import tfds_builder, tfrecord
from resnet_jax.data.decode import decode_image, decoding_threads
from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.prepared import prepared_dir, resolve_data_dir, write_npz
from resnet_jax.data.sources import DATASETS, IN_MEMORY, STREAMED
from resnet_jax.data.statistics import (
  compute_statistics,
  load_statistics,
  save_statistics,
  statistics_path,
)
from resnet_jax.data.tfds_builder import FileFormat
from resnet_jax.data.tfds_source import TfdsSource, index_path, shard_paths
from resnet_jax.errors import UserError

_say = functools.partial(print, flush=True)


def prepare(
  dataset: str,
  data_dir: str | None,
  *,
  manual_dir: str | None = None,
  file_format: FileFormat = "tfrecord",
  image_size: int = 224,
  short_side: int = 256,
  max_statistics_examples: int | None = None,
) -> None:
  """Prepares a data set and says what it does; safe to run again, and to interrupt.

  Args:
    dataset: Name of the data set.
    data_dir: The data directory; see `prepared.resolve_data_dir`.
    manual_dir: Folder of the files that must be downloaded by hand (ImageNet's), if it is not
      DATA_DIR/downloads/manual.
    file_format: In which format tfds writes the records, if it has not done so already.
    image_size: Height and width of the mean image, in pixels; that of the crops in training.
    short_side: Short side of an image, in pixels, before the mean image's centre crop.
    max_statistics_examples: Take the mean image and the colour components of this many training
      images, evenly spread; None for all.

  Raises:
    UserError: The data set is unknown, a file must be downloaded by hand first, the network is out
      of reach, tensorflow-datasets is missing, or the sizes contradict each other.
  """
  if dataset not in DATASETS:
    raise UserError(f"unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}")
  if dataset not in (*IN_MEMORY, *STREAMED):
    _say(f"{dataset} needs no preparation.")
    return
  if not 0 < image_size <= short_side:
    raise UserError(f"a crop of {image_size} does not fit into a short side of {short_side}")
  _run_builder(dataset, data_dir, manual_dir, file_format)
  if dataset in IN_MEMORY:
    _pack(dataset, data_dir)
  else:
    _index(dataset, data_dir)
    _summarise(dataset, data_dir, image_size, short_side, max_statistics_examples)
  _say(f"{dataset} is ready in {resolve_data_dir(data_dir)}.")


def _run_builder(
  dataset: str, data_dir: str | None, manual_dir: str | None, file_format: FileFormat
) -> None:
  packed = prepared_dir(data_dir, dataset) / "images.npz"
  if packed.exists():
    return  # All that training reads; tensorflow-datasets may be gone by now.
  builder = tfds_builder.find_prepared(dataset, data_dir)
  if builder is None:
    _say(f"Preparing {dataset} with tensorflow-datasets ...")
    tfds_builder.build(dataset, data_dir, manual_dir, file_format)
    return
  stored = builder.info.file_format.value
  note = f", not as {file_format}; delete it to change that" if stored != file_format else ""
  _say(f"Keeping {builder.data_path}, which tensorflow-datasets prepared as {stored}{note}.")


def _pack(dataset: str, data_dir: str | None) -> None:
  """Writes images.npz: the images of a small data set, in the official order."""
  path = prepared_dir(data_dir, dataset) / "images.npz"
  if path.exists():
    _say(f"Keeping {path}.")
    return
  arrays: dict[str, np.ndarray] = {}
  for split in ("train", "test"):
    source = TfdsSource(dataset, split, data_dir)
    images, labels, ids = [], [], []
    with _Progress(f"Packing {dataset} {split}", len(source)) as progress:
      for i in range(len(source)):
        try:
          encoded, label = source.read(i)
          images.append(decode_image(encoded))
        except UndecodableError as error:
          raise UserError(
            f"{source.locate(i)} is damaged ({error}): delete its folder and prepare again"
          ) from None
        labels.append(label)
        ids.append(source.features(i)["id"].bytes_list.value[0])
        progress(1)
    # The builder shuffles; the ids (train_00000, …) number the examples as their authors did.
    order = np.argsort(np.array(ids), kind="stable")
    arrays[f"{split}_images"] = np.stack(images)[order]
    arrays[f"{split}_labels"] = np.array(labels, np.int32)[order]
  write_npz(path, **arrays, class_names=np.array(source.class_names, np.str_))
  _say(f"Wrote {path}.")


def _index(dataset: str, data_dir: str | None) -> None:
  """Writes index-<split>.npz for each split that is stored as TFRecord and streamed."""
  info = tfds_builder.open_prepared(dataset, data_dir).info
  if info.file_format.value != "tfrecord":
    return
  for split in sorted({"train", "validation"} & set(info.splits)):
    path = index_path(dataset, split, data_dir)
    files = shard_paths(info, split)
    if tfrecord.load_index(path, files) is not None:
      _say(f"Keeping {path}.")
      continue
    _say(f"Indexing the {len(files)} files of {split} ...")
    tfrecord.save_index(path, tfrecord.build_index(files))
    _say(f"Wrote {path}.")


def _summarise(
  dataset: str, data_dir: str | None, image_size: int, short_side: int, max_examples: int | None
) -> None:
  """Writes statistics.npz, the mean image and colour components of the training split."""
  path = statistics_path(data_dir, dataset)
  source = TfdsSource(dataset, "train", data_dir)
  count = min(len(source), max_examples or len(source))
  if path.exists():
    kept = load_statistics(path)
    asked = (image_size, short_side, count)
    if (kept.image_size, kept.short_side, kept.examples + kept.undecodable) == asked:
      _say(f"Keeping {path}.")
      return
    _say(f"Replacing {path}, which was made with other settings.")
  with _Progress(f"Averaging {dataset} train", count) as progress:
    statistics = compute_statistics(
      source,
      image_size=image_size,
      short_side=short_side,
      threads=decoding_threads(0),
      max_examples=max_examples,
      progress=progress,
    )
  save_statistics(path, statistics)
  left_out = f", {statistics.undecodable} records left out" if statistics.undecodable else ""
  _say(f"Wrote {path}: the mean of {statistics.examples} images{left_out}.")


class _Progress:
  """A bar on a terminal; elsewhere a line at most every half minute."""

  def __init__(self, title: str, total: int, seconds: float = 30):
    self._title, self._total, self._seconds = title, total, seconds
    self._done, self._next_line = 0, 0.0
    terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(total=total, desc=title, disable=not terminal)
    self._lines = not terminal

  def __enter__(self) -> Callable[[int], None]:
    _say(f"{self._title}: {self._total} images ...")
    self._next_line = time.monotonic() + self._seconds
    return self._update

  def _update(self, examples: int) -> None:
    self._done += examples
    self._bar.update(examples)
    if self._lines and time.monotonic() > self._next_line:
      _say(f"  {self._done} of {self._total}")
      self._next_line = time.monotonic() + self._seconds

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._bar.close()
