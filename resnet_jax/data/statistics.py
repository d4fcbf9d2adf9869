"""The mean image and the principal components of colour of a training split.

The paper subtracts the mean of every pixel and channel from the crop (section 3.4: "with the
per-pixel mean subtracted"; the authors' mean image is 224x224, so Crop(image) - mean). It is taken
here over the evaluation view: short side resized, centre crop.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import logging
import pathlib
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from resnet_jax.data import prepared
from resnet_jax.data.decode import decode_window
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.data.windows import center_window
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)

_BLOCK = 64
# Maximum number of warnings about skipped records.
_WARNINGS = 8


@dataclasses.dataclass(frozen=True)
class Statistics:
  """What the pixels of a training split look like.

  Attributes:
    mean_image: (image_size, image_size, 3) float64, on the scale [0, 255].
    mean_color: (3,) float64, RGB, on the scale [0, 255].
    eigenvalues: (3,) float64, of the covariance of RGB on the scale [0, 1], descending: the
      magnitudes that `augment.color_noise` takes.
    eigenvectors: (3, 3) float64, a component a column, its largest entry positive.
    examples: Number of images that went in.
    undecodable: Number of records that were left out.
    short_side: Short side in pixels before the centre crop.
    identity: Of the files; see `ExampleSource.identity`.
  """

  mean_image: np.ndarray
  mean_color: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray
  examples: int
  undecodable: int
  short_side: int
  identity: str = ""

  @property
  def image_size(self) -> int:
    """Height and width of the mean image, in pixels."""
    return self.mean_image.shape[0]


@dataclasses.dataclass
class _Sums:
  """Sums over images, as integers: exact, so their order and the threads do not matter."""

  pixels: np.ndarray  # (size, size, 3) int64
  products: np.ndarray  # (3, 3) int64, of RGB with RGB, over all pixels
  examples: int = 0
  undecodable: int = 0

  @classmethod
  def zero(cls, size: int) -> "_Sums":
    return cls(np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

  def add_image(self, image: np.ndarray) -> None:
    self.pixels += image
    colors = image.reshape(-1, 3).astype(np.float64)
    # Exact in float64: at most 255 * 255 * size * size, far below 2**53.
    self.products += (colors.T @ colors).astype(np.int64)
    self.examples += 1

  def add(self, other: "_Sums") -> None:
    self.pixels += other.pixels
    self.products += other.products
    self.examples += other.examples
    self.undecodable += other.undecodable


def compute_statistics(
  source: ExampleSource,
  *,
  image_size: int,
  short_side: int,
  threads: int,
  max_examples: int | None = None,
  progress: Callable[[int], None] = lambda examples: None,
) -> Statistics:
  """Decodes a split once and sums it up.

  Args:
    source: The training split.
    image_size: Height and width of the centre crop, in pixels.
    short_side: Short side in pixels before the crop.
    threads: Threads that decode.
    max_examples: Use this many examples, evenly spread; None for all.
    progress: Called with the number of examples that were done since the last call.

  Raises:
    UserError: If not one image can be decoded.
  """
  count = min(len(source), max_examples or len(source))
  view = functools.partial(center_window, short_side=short_side, size=image_size)
  warnings = itertools.count()

  def sum_block(start: int) -> _Sums:
    sums = _Sums.zero(image_size)
    block = range(start, min(start + _BLOCK, count))
    numbers = [k * len(source) // count for k in block]
    for number, example in zip(numbers, source.read_many(numbers), strict=True):
      if isinstance(example, OSError):
        raise example
      try:
        if isinstance(example, UndecodableError):
          raise example
        sums.add_image(decode_window(example[0], view, (image_size, image_size)))
      except UndecodableError as error:
        sums.undecodable += 1
        if next(warnings) < _WARNINGS:
          logger.warning("%s is left out (%s)", source.locate(number), error)
    return sums

  total = _Sums.zero(image_size)
  with concurrent.futures.ThreadPoolExecutor(threads) as executor:
    for sums in _in_waves(executor, sum_block, range(0, count, _BLOCK), 2 * threads):
      total.add(sums)
      progress(sums.examples + sums.undecodable)
  if not total.examples:
    raise UserError(f"none of {count} training images can be decoded: prepare the data set again")
  return _from_sums(total, short_side, source.identity)


def _in_waves(
  executor: concurrent.futures.Executor, call: Callable[[int], _Sums], starts: range, ahead: int
) -> Iterator[_Sums]:
  """As `executor.map`, with at most `ahead` results (a megabyte each) in memory."""
  for first in range(0, len(starts), ahead):
    yield from executor.map(call, starts[first : first + ahead])


def _from_sums(sums: _Sums, short_side: int, identity: str) -> Statistics:
  pixels = sums.examples * sums.pixels.shape[0] * sums.pixels.shape[1]
  mean_color = sums.pixels.sum((0, 1)) / pixels
  covariance = (sums.products / pixels - np.outer(mean_color, mean_color)) / 255**2
  eigenvalues, eigenvectors = np.linalg.eigh(covariance)
  eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
  largest = np.take_along_axis(eigenvectors, np.abs(eigenvectors).argmax(0)[None], axis=0)
  return Statistics(
    mean_image=sums.pixels / sums.examples,
    mean_color=mean_color,
    eigenvalues=eigenvalues,
    eigenvectors=eigenvectors * np.sign(largest),
    examples=sums.examples,
    undecodable=sums.undecodable,
    short_side=short_side,
    identity=identity,
  )


def statistics_path(
  data_dir: str | None, dataset: str, own_root: str | None = None
) -> pathlib.Path:
  """Where `prepare` keeps the statistics of a data set; see `prepared.prepared_dir`."""
  return prepared.prepared_dir(data_dir, dataset, own_root) / "statistics.npz"


def save_statistics(path: pathlib.Path, statistics: Statistics) -> None:
  """Writes statistics as npz, one array a field."""
  fields = dataclasses.asdict(statistics)
  prepared.write_npz(path, **{name: np.asarray(value) for name, value in fields.items()})


def load_statistics(path: pathlib.Path) -> Statistics:
  """Reads what `save_statistics` wrote.

  Raises:
    UserError: If the file is damaged, or not there.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Statistics(
        mean_image=arrays["mean_image"],
        mean_color=arrays["mean_color"],
        eigenvalues=arrays["eigenvalues"],
        eigenvectors=arrays["eigenvectors"],
        examples=int(arrays["examples"]),
        undecodable=int(arrays["undecodable"]),
        short_side=int(arrays["short_side"]),
        identity=str(arrays["identity"]) if "identity" in arrays else "",
      )
  except PermissionError:
    raise UserError(f"{path} may not be read: mend its permissions") from None
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise UserError(f"{path} is damaged ({error}): delete it and prepare again") from None
