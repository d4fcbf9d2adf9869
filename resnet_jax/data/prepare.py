"""`resnet-jax prepare`: everything that a data set needs before it can be trained on.

The tfds builder runs first. Then a set that fits in memory is packed into one file that training
reads without tensorflow-datasets, and a set that is streamed gets the statistics of its training
split and, for TFRecord files, the index that gives them random access. Images in folders get the
statistics alone. What is already there is kept, so an interrupted run is simply started again.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
import tqdm

from resnet_jax.data import tfds_builder, tfrecord
from resnet_jax.data.config import DataConfig
from resnet_jax.data.decode import decode_image, decoding_threads
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.data.prepared import (
  chosen_data_dir,
  is_address,
  prepared_dir,
  require_writable,
  write_npz,
)
from resnet_jax.data.sources import DATASETS, IN_MEMORY, STREAMED
from resnet_jax.data.split_sources import FOLDER, open_sources
from resnet_jax.data.statistics import (
  compute_statistics,
  load_statistics,
  save_statistics,
  statistics_path,
)
from resnet_jax.data.tfds_builder import FileFormat
from resnet_jax.data.tfds_prepared import (
  find_prepared,
  open_prepared,
  require_known,
  supervised_features,
)
from resnet_jax.data.tfds_source import TfdsSource, index_path
from resnet_jax.errors import UserError

# Small images that are read at once while packing.
_BLOCK = 1000

_say = functools.partial(print, flush=True)


@dataclasses.dataclass(frozen=True)
class _Work:
  """What is to be prepared, and where it lies."""

  dataset: str
  data_dir: str | None
  own_root: str | None

  def config(self) -> DataConfig:
    return DataConfig(self.dataset, self.data_dir, prepared_dir=self.own_root)


def prepare(
  dataset: str,
  data_dir: str | None,
  *,
  own_root: str | None = None,
  manual_dir: str | None = None,
  file_format: FileFormat = "tfrecord",
  image_size: int = 224,
  short_side: int = 256,
  max_statistics_examples: int | None = None,
) -> None:
  """Prepares a data set and says what it does; safe to run again, and to interrupt.

  Args:
    dataset: Name of the data set.
    data_dir: The data directory; see `prepared.chosen_data_dir`. In a bucket the set must be
      prepared by tensorflow-datasets already.
    own_root: Where this package's own files go; see `prepared.prepared_dir`.
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
  if dataset in ("digits", "synthetic"):
    _say(f"{dataset} needs no preparation.")
    return
  if dataset not in (*IN_MEMORY, *STREAMED, FOLDER):
    require_known(dataset, data_dir, DATASETS)
  if not 0 < image_size <= short_side:
    raise UserError(f"a crop of {image_size} does not fit into a short side of {short_side}")
  if own_root is not None and is_address(own_root):
    raise UserError(
      f"--prepared-dir {own_root}: prepare into a local folder, and copy that to the bucket"
    )
  work = _Work(dataset, data_dir, own_root)
  if dataset != FOLDER:
    _run_builder(work, manual_dir, file_format)
  if dataset in IN_MEMORY:
    _pack(work)
  else:
    if dataset != FOLDER:
      _index(work)
    # All splits are opened: what is wrong with any of them is said before the long work.
    source = open_sources(work.config())["train"]
    _summarise(work, source, image_size, short_side, max_statistics_examples)
  _say(f"{dataset} is ready in {chosen_data_dir(data_dir)}.")


def _run_builder(work: _Work, manual_dir: str | None, file_format: FileFormat) -> None:
  packed = prepared_dir(work.data_dir, work.dataset, work.own_root) / "images.npz"
  if packed.exists():
    return  # All that training reads; tensorflow-datasets may be gone by now.
  found = find_prepared(work.dataset, work.data_dir)
  if found is None and is_address(work.data_dir):
    open_prepared(work.dataset, work.data_dir)  # Says what to do.
  if found is None:
    _say(f"Preparing {work.dataset} with tensorflow-datasets ...")
    tfds_builder.build(work.dataset, work.data_dir, manual_dir, file_format, supervised_features)
    return
  stored = found.info.file_format.value
  note = f", not as {file_format}; delete it to change that" if stored != file_format else ""
  where = found.folder.locate("").rstrip("/")
  _say(f"Keeping {where}, which tensorflow-datasets prepared as {stored}{note}.")


def _pack(work: _Work) -> None:
  """Writes images.npz: the images of a small data set, in the official order."""
  path = prepared_dir(work.data_dir, work.dataset, work.own_root) / "images.npz"
  if path.exists():
    _say(f"Keeping {path}.")
    return
  require_writable(path.parent)
  arrays: dict[str, np.ndarray] = {}
  for split in ("train", "test"):
    source = TfdsSource(work.dataset, split, work.data_dir, work.own_root)
    images: list[np.ndarray] = []
    labels: list[int] = []
    ids: list[bytes] = []
    with _Progress(f"Packing {work.dataset} {split}", len(source)) as progress:
      for start in range(0, len(source), _BLOCK):
        block = range(start, min(start + _BLOCK, len(source)))
        for i, example in zip(block, source.read_many(block), strict=True):
          if isinstance(example, OSError):
            raise example
          try:
            if isinstance(example, UndecodableError):
              raise example
            images.append(decode_image(example[0]))
          except UndecodableError as error:
            raise UserError(
              f"{source.locate(i)} is damaged ({error}): delete its folder and prepare again"
            ) from None
          labels.append(example[1])
        ids.extend(source.values("id", block))
        progress(len(block))
    # The builder shuffles; the ids (train_00000, …) number the examples as their authors did.
    order = np.argsort(np.array(ids), kind="stable")
    arrays[f"{split}_images"] = np.stack(images)[order]
    arrays[f"{split}_labels"] = np.array(labels, np.int32)[order]
  write_npz(path, **arrays, class_names=np.array(source.class_names, np.str_))
  _say(f"Wrote {path}.")


def _index(work: _Work) -> None:
  """Writes index-<split>.npz for each split that is stored as TFRecord and streamed."""
  opened = open_prepared(work.dataset, work.data_dir, work.own_root)
  if opened.info.file_format.value != "tfrecord":
    return
  for split in sorted({"train", "validation", "test"} & set(opened.info.splits)):
    path = index_path(work.dataset, split, work.data_dir, work.own_root)
    names = opened.shard_names(split)
    if tfrecord.load_index(path, opened.folder, names) is not None:
      _say(f"Keeping {path}.")
      continue
    require_writable(path.parent)
    with _Progress(f"Indexing {work.dataset} {split}", len(names), unit="files") as progress:
      index = tfrecord.build_index(opened.folder, names, progress)
    tfrecord.save_index(path, index)
    _say(f"Wrote {path}.")


def _summarise(
  work: _Work, source: ExampleSource, image_size: int, short_side: int, max_examples: int | None
) -> None:
  """Writes statistics.npz, the mean image and colour components of the training split."""
  path = statistics_path(work.data_dir, work.dataset, work.own_root)
  count = min(len(source), max_examples or len(source))
  if path.exists():
    kept = load_statistics(path)
    asked = (image_size, short_side, count, source.identity)
    found = (kept.image_size, kept.short_side, kept.examples + kept.undecodable, kept.identity)
    if found == asked:
      _say(f"Keeping {path}.")
      return
    _say(f"Replacing {path}, which was made with other settings or of other files.")
  require_writable(path.parent)
  with _Progress(f"Averaging {work.dataset} train", count) as progress:
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

  def __init__(self, title: str, total: int, seconds: float = 30, unit: str = "images"):
    self._title, self._total, self._seconds, self._unit = title, total, seconds, unit
    self._done, self._next_line = 0, 0.0
    terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(total=total, desc=title, unit=f" {unit}", disable=not terminal)
    self._lines = not terminal

  def __enter__(self) -> Callable[[int], None]:
    _say(f"{self._title}: {self._total} {self._unit} ...")
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
