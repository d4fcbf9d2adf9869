"""The likeliest classes of pictures in files."""

import concurrent.futures
import dataclasses
import glob
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.feed import even_batch_size, fill
from resnet_jax.data.folder_source import EXTENSIONS
from resnet_jax.errors import UserError
from resnet_jax.evaluation.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The likeliest classes of one picture.

  Attributes:
    file: Where it lies.
    classes: Their numbers, the likeliest first; of equally likely ones the smaller first.
    scores: Their softmax scores.
  """

  file: str
  classes: tuple[int, ...]
  scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Unreadable:
  """What is no picture.

  Attributes:
    file: What was asked for.
    reason: A few words.
  """

  file: str
  reason: str


def find_pictures(names: Sequence[str]) -> list[str | Unreadable]:
  """The files that are meant, in the order of the names.

  Args:
    names: Of files; of folders, for all pictures in and below them, by their extensions, but for
      what begins with a dot; or patterns with *, ? and [], and ** for folders at any depth.

  Returns:
    Files, sorted within a folder or pattern; and what stands for none.
  """
  found: list[str | Unreadable] = []
  for name in names:
    path = pathlib.Path(name)
    if path.is_dir():
      found += _in_folder(path) or [Unreadable(name, "a folder without pictures")]
    elif path.exists() or not glob.has_magic(name):
      found.append(name)
    else:
      matches = sorted(glob.glob(name, recursive=True))
      files = [match for match in matches if pathlib.Path(match).is_file()]
      found += files or [Unreadable(name, "no file is called so")]
  return found


def predict(
  classifier: Classifier,
  files: Sequence[str | Unreadable],
  top: int = 5,
  batch_size: int = 32,
  threads: int = 1,
) -> Iterator[Prediction | Unreadable]:
  """Predicts the classes of pictures.

  Args:
    classifier: The network.
    files: As `find_pictures` gives them.
    top: How many classes of each.
    batch_size: Maximum number of pictures at a time; smaller if there are fewer.
    threads: Threads that read and decode, a batch ahead of the network.

  Yields:
    One for each of the files, in their order.

  Raises:
    UserError: The network's outputs are not finite.
  """

  def read(file: str | Unreadable) -> np.ndarray | Unreadable:
    if isinstance(file, Unreadable):
      return file
    try:
      return classifier.crop(pathlib.Path(file).read_bytes())
    except OSError as error:
      return Unreadable(file, error.strerror or str(error))
    except UndecodableError as error:
      return Unreadable(file, f"no whole picture ({error})")

  if not files:
    return
  batch_size = even_batch_size(len(files), batch_size)
  with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="decode") as executor:
    following = [executor.submit(read, file) for file in files[:batch_size]]
    for start in range(0, len(files), batch_size):
      end = start + batch_size
      read_ones = [future.result() for future in following]
      following = [executor.submit(read, file) for file in files[end : end + batch_size]]
      best = iter(_best(classifier, read_ones, top, batch_size))
      for file, one in zip(files[start:end], read_ones, strict=True):
        yield one if isinstance(one, Unreadable) else Prediction(str(file), *next(best))


def _best(
  classifier: Classifier, crops: Sequence[np.ndarray | Unreadable], top: int, batch_size: int
) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
  """Yields classes and scores of each crop; pads batches, so that one program is compiled."""
  import scipy.special  # Imported here, because it takes half a second and training never needs it.

  pixels = [crop for crop in crops if not isinstance(crop, Unreadable)]
  if not pixels:
    return
  found = np.asarray(classifier.logits(fill(np.stack(pixels), batch_size)), np.float64)
  logits = found[: len(pixels)]
  if not np.isfinite(logits).all():
    raise UserError(f"the outputs of {classifier.name} are not finite: choose other weights")
  for row, of_logits in zip(scipy.special.softmax(logits, axis=-1), logits, strict=True):
    classes = np.argsort(-of_logits, kind="stable")[:top].tolist()
    yield tuple(classes), tuple(row[classes].tolist())


def _in_folder(folder: pathlib.Path) -> list[str]:
  return sorted(
    str(path)
    for path in folder.rglob("*")
    if path.suffix.lower() in EXTENSIONS
    and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    and path.is_file()
  )
