"""Images in folders: `ROOT/train/<class>/….jpg`, and beside it `val` or `validation`, and `test`.

Needs neither TensorFlow nor tensorflow-datasets.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import os
import pathlib

import numpy as np

from resnet_jax.data.example_source import Example, ExampleSource
from resnet_jax.data.prepared import is_address
from resnet_jax.errors import UserError

# What `decode.FORMATS` reads.
EXTENSIONS = (
  *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
  *(".jpe", ".jfif"),
)
_EXTENSIONS = frozenset(os.fsencode(extension) for extension in EXTENSIONS)

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
EXPECTED = (
  "expected are ROOT/train/<class>/*.jpg (or .png, …) and, if there are, ROOT/val and /test"
)

# They wait for the disk, or for a server.
_SCANNING_THREADS = 16


class FolderSource(ExampleSource):
  """The images of one split in folders, a folder a class; any thread may read.

  Class names are the names of the folders in `train`, sorted, unless others are given. Images may
  lie in folders below their class's. What begins with a dot or has no extension of an image is
  ignored. Links to files and to the folders of classes are followed, links further below to folders
  are not.

  A folder is sorted by class, so its last examples would be one class. Examples stand in the order
  of the 64-bit BLAKE2b hashes of their paths below the split's folder instead: the same on every
  machine, whatever the seed, and as good as random, so that the last N, which `data.held_out`
  splits off, hold each class in about its share.

  Opening 1.28 million files in 1,000 folders takes 5 seconds on two cores with a local disk whose
  listing is in the operating system's cache (measured); a network disk decides for itself.

  Args:
    root: The folder that holds `train`.
    split: train, validation or test.
    class_names: Those of the labels, if they are known already (of an open training split, or of
      weights that are to be measured).

  Raises:
    UserError: A folder is missing or holds no images, or a class is not one of `train`'s.
  """

  def __init__(
    self, root: str | os.PathLike[str], split: str, class_names: tuple[str, ...] | None = None
  ):
    top = folder_root(os.fspath(root))
    if class_names is None:
      class_names = _class_names(_split_folder(top, "train"))
    self._folder = _split_folder(top, split)
    self._class_names = class_names
    labels = {name: label for label, name in enumerate(class_names)}
    present = _class_names(self._folder)
    for name in present:
      if name not in labels:
        raise UserError(
          f"{self._folder / name}: no such class in {top / 'train'}; remove the folder, or name it "
          "as there"
        )
    paths, counts = _list_images(self._folder, present)
    if split == "train":
      for name, count in zip(present, counts, strict=True):
        if not count:
          raise UserError(f"{self._folder / name} holds no images: add some, or remove the folder")
    if not paths:
      raise UserError(f"{self._folder} holds no images: {EXPECTED}")
    present_labels = np.array([labels[name] for name in present], np.int32)
    self._keep(paths, np.repeat(present_labels, counts))

  def _keep(self, paths: list[bytes], labels: np.ndarray) -> None:
    digests = (hashlib.blake2b(path, digest_size=8).digest() for path in paths)
    hashes = np.fromiter((int.from_bytes(each) for each in digests), np.uint64, len(paths))
    order = np.argsort(hashes, kind="stable")
    self._labels = labels[order]
    # One string for all: a million Python objects would take 100 MB.
    ordered = [paths[i] for i in order]
    self._paths = b"".join(ordered)
    self._ends = np.fromiter(
      itertools.accumulate(len(path) for path in ordered), np.int64, len(ordered)
    )
    digest = hashlib.blake2b("\0".join(self._class_names).encode(errors="surrogateescape"))
    for data in (self._paths, self._ends.tobytes(), self._labels.tobytes()):
      digest.update(data)
    self._identity = digest.hexdigest()[:16]

  @property
  def class_names(self) -> tuple[str, ...]:
    """In the order of the labels: of the folders in `train`, sorted, unless others were given."""
    return self._class_names

  @property
  def identity(self) -> str:
    """A hash of the classes, of the files' paths below the split's folder, and of their labels."""
    return self._identity

  def __len__(self) -> int:
    return len(self._labels)

  def read(self, i: int) -> Example:
    """The image of example i, still encoded, and its label; see `ExampleSource.read`."""
    with open(self.locate(i), "rb") as file:
      return file.read(), int(self._labels[i])

  def locate(self, i: int) -> str:
    """The path of example i."""
    return str(self._folder / os.fsdecode(self._path(i)))

  def _path(self, i: int) -> bytes:
    if not 0 <= i < len(self):
      raise IndexError(f"there is no example {i} of {len(self)}")
    return self._paths[int(self._ends[i - 1]) if i else 0 : int(self._ends[i])]


def folder_root(data_dir: str | None) -> pathlib.Path:
  """The folder that holds those of the splits, from the config's `data_dir`.

  Raises:
    UserError: None is named, or it is an address, or there is none of a split in it.
  """
  if not data_dir:
    raise UserError(f"the data set `folder` needs data.data_dir (--data-dir), its ROOT: {EXPECTED}")
  if is_address(data_dir):
    raise UserError(
      f"{data_dir}: folders of images are read from local disks alone; mount or copy it"
    )
  root = pathlib.Path(data_dir).expanduser()
  if not any((root / name).is_dir() for names in SPLIT_FOLDERS.values() for name in names):
    raise UserError(f"{root / 'train'} is no folder: {EXPECTED}")
  return root


def folder_classes(data_dir: str | None) -> tuple[str, ...]:
  """The names of the classes of which there are pictures, in any split, sorted.

  Raises:
    UserError: See `folder_splits`.
  """
  root = folder_root(data_dir)
  splits = folder_splits(data_dir)
  return tuple(sorted({name for s in splits for name in _class_names(_split_folder(root, s))}))


def folder_splits(data_dir: str | None) -> tuple[str, ...]:
  """Which of train, validation and test there are.

  A `test` folder without folders in it has no labels, and so is no split.

  Raises:
    UserError: See `folder_root`; or both `val` and `validation` are there.
  """
  root = folder_root(data_dir)
  found = []
  for split, names in SPLIT_FOLDERS.items():
    there = [name for name in names if (root / name).is_dir()]
    if len(there) > 1:
      raise UserError(f"{root} holds {' and '.join(there)}: remove or rename one of them")
    if there and (split != "test" or _class_names(root / there[0])):
      found.append(split)
  return tuple(found)


def _split_folder(root: pathlib.Path, split: str) -> pathlib.Path:
  for name in SPLIT_FOLDERS[split]:
    if (root / name).is_dir():
      return root / name
  raise UserError(f"{root} holds no folder {' or '.join(SPLIT_FOLDERS[split])}: {EXPECTED}")


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
  """Names of the folders in the folder of a split."""
  with os.scandir(folder) as entries:
    names = sorted(
      entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()
    )
  if not names and folder.name in SPLIT_FOLDERS["train"] + SPLIT_FOLDERS["validation"]:
    raise UserError(f"{folder} holds no folders, one a class: {EXPECTED}")
  return tuple(names)


def _list_images(
  folder: pathlib.Path, class_names: tuple[str, ...]
) -> tuple[list[bytes], list[int]]:
  """Paths below a split's folder, class after class, and how many each class has."""
  top = os.fsencode(folder)
  with concurrent.futures.ThreadPoolExecutor(_SCANNING_THREADS) as executor:
    lists = list(executor.map(functools.partial(_list_class, top), map(os.fsencode, class_names)))
  return list(itertools.chain.from_iterable(lists)), [len(paths) for paths in lists]


def _list_class(top: bytes, name: bytes) -> list[bytes]:
  """Sorted paths, relative to `top` and with slashes, of the images in one of its folders."""
  paths, folders = [], [name]
  while folders:
    folder = folders.pop()
    with os.scandir(os.path.join(top, folder)) as entries:
      for entry in entries:
        if entry.name.startswith(b"."):
          continue
        if os.path.splitext(entry.name)[1].lower() in _EXTENSIONS and entry.is_file():
          paths.append(folder + b"/" + entry.name)
        elif entry.is_dir(follow_symlinks=False):
          folders.append(folder + b"/" + entry.name)
  return sorted(paths)
