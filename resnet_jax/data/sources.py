"""Opening a data set by name."""

import importlib.resources
import importlib.util
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_jax.data.config import DataConfig
from resnet_jax.data.dataset import Dataset, kept_for_training
from resnet_jax.data.folder_source import folder_root
from resnet_jax.data.prepared import prepare_command, prepared_dir
from resnet_jax.data.resident import Arrays, resident_dataset
from resnet_jax.data.split_sources import FOLDER
from resnet_jax.data.tfds_prepared import require_known
from resnet_jax.errors import UserError

IN_MEMORY = ("cifar10", "cifar100")
STREAMED = ("imagenet2012",)
# Beside these, any set of images with one label each that tensorflow-datasets has prepared.
DATASETS = ("digits", *IN_MEMORY, *STREAMED, FOLDER, "synthetic")


def open_dataset(
  config: DataConfig, seed: int, class_names: tuple[str, ...] | None = None
) -> Dataset:
  """Opens the data set that a config names.

  Args:
    config: The data section of a config.
    seed: The run's seed, of which the host's random crops are a function.
    class_names: Of `folder`, the names of all classes in the order of their labels, where they are
      known already; then there need not be pictures of all, nor a `train`. Others have their own.

  Raises:
    UserError: It is unknown, not prepared, or cannot be split as asked.
  """
  if config.dataset == "digits":
    return _resident(config, digits(), [str(digit) for digit in range(10)])
  if config.dataset == "synthetic":
    names = [f"class {label}" for label in range(config.synthetic.num_classes)]
    return _resident(config, synthetic(config, seed), names)
  if config.dataset in IN_MEMORY:
    images = load_images(config.data_dir, config.dataset, config.prepared_dir)
    return _resident(config, *images)
  if config.dataset == FOLDER:
    folder_root(config.data_dir)  # What is not there is not to be prepared first.
  elif config.dataset not in STREAMED:
    require_known(config.dataset, config.data_dir, DATASETS)
  # Its decoders are loaded where they are needed: Numba, which compiles them, takes half a second.
  from resnet_jax.data.streaming import streaming_dataset

  return streaming_dataset(config, seed, class_names)


def digits() -> dict[str, Arrays]:
  """scikit-learn's 1,797 handwritten digits of 8x8 pixels, from the UCI repository.

  The split (1,257 / 180 / 360, stratified by class) is a file of this package, so that it cannot
  drift with a library's version.

  Returns:
    Images (N, 8, 8, 1) uint8 on the scale [0, 255] and labels (N,) of train, validation, test.
  """
  table = _digits_table()
  images = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
  labels = table[:, -1].astype(np.int64)
  split = json.loads(
    importlib.resources.files(__package__).joinpath("digits_split.json").read_text()
  )
  return {name: (images[indices], labels[indices]) for name, indices in split.items()}


def _digits_table() -> np.ndarray:
  """Returns the pixels and label of each digit: (N, 65), float64.

  Importing scikit-learn takes two seconds, reading its file of digits a fifth of a second. So its
  function is called only if its version stores the file elsewhere.
  """
  package = importlib.util.find_spec("sklearn")
  if package is not None and package.origin is not None:
    path = pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
      return np.loadtxt(path, delimiter=",")
  from sklearn.datasets import load_digits

  data = load_digits()
  return np.column_stack([data.data, data.target])


def synthetic(config: DataConfig, seed: int) -> dict[str, Arrays]:
  """Uniform random pixels and labels of the sizes that `config.synthetic` gives."""
  size, generator = config.synthetic, np.random.default_rng(seed)
  shape = (size.image_size, size.image_size, 3)
  return {
    name: (
      generator.integers(0, 256, (examples, *shape), np.uint8),
      generator.integers(0, size.num_classes, examples),
    )
    for name, examples in (
      ("train", size.train_examples),
      ("validation", size.validation_examples),
      ("test", size.validation_examples),
    )
  }


def load_images(
  data_dir: str | None, dataset: str, own_root: str | None = None
) -> tuple[dict[str, Arrays], tuple[str, ...]]:
  """Reads what `resnet-jax prepare` wrote of a set that fits in memory; needs no TensorFlow.

  Args:
    data_dir: The data directory; see `prepared.chosen_data_dir`.
    dataset: Name of the data set.
    own_root: Where `prepare` keeps its own files; see `prepared.prepared_dir`.

  Returns:
    Images (N, H, W, 3) uint8 and labels (N,) int32 of train and test, in the official order, and
    the class names.

  Raises:
    UserError: It has not been prepared, or the file is damaged.
  """
  path = prepared_dir(data_dir, dataset, own_root) / "images.npz"
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {
        split: (file[f"{split}_images"], file[f"{split}_labels"]) for split in ("train", "test")
      }
      return arrays, tuple(str(name) for name in file["class_names"])
  except FileNotFoundError:
    raise UserError(
      f"{dataset} is not prepared: {path} does not exist; run "
      f"`{prepare_command(data_dir, dataset, own_root)}`"
    ) from None
  except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
    raise UserError(f"{path} is damaged ({error}): delete it and prepare {dataset} again") from None


def _resident(
  config: DataConfig, arrays: Mapping[str, Arrays], class_names: Sequence[str]
) -> Dataset:
  return resident_dataset(config.dataset, hold_out(arrays, config), class_names, config)


def hold_out(arrays: Mapping[str, Arrays], config: DataConfig) -> dict[str, Arrays]:
  """Splits the last `config.held_out` training examples off for validation."""
  images, labels = arrays["train"]
  kept = kept_for_training(config, len(images), "validation" in arrays)
  if kept == len(images):
    return dict(arrays)
  return {
    **arrays,
    "train": (images[:kept], labels[:kept]),
    "validation": (images[kept:], labels[kept:]),
  }
