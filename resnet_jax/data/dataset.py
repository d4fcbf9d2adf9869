"""The one face of every data set: splits that fetch examples by number and view them on the device.

Two engines stand behind it. *Resident* sets lie whole on the device, so `fetch` has nothing to read
and the view gathers, crops and flips there. *Streaming* sets are read and decoded on the host by
`fetch`, and the view normalises and colours on the device. Nothing downstream tells them apart.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from resnet_jax.data.config import DataConfig
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError

# Host arrays with a leading axis of examples. Always `epoch` and `example` (int32) and `weight`
# (float32, 0 for padding and unreadable examples); streaming adds `image` (uint8) and `label`.
Batch = dict[str, np.ndarray]

# (constants, batch, key) -> images (N, H, W, C) float32 and labels (N,) int32. Pure, compiled into
# the step; `constants` is the split's, `batch` one device's share, `key` the run's own key.
View = Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Split:
  """Examples 0 … size-1, and how they are seen.

  Attributes:
    name: train, validation or test.
    size: Number of examples.
    constants: Arrays that the view reads, placed once on every device (the images of a resident
      set, the mean image).
    fetch: Reads examples on the host: `fetch(epochs, examples)` with two int arrays of shape (N,)
      gives what the view needs beyond its constants, as a `Batch`. A pure function of its arguments
      (and of the seed that the data set was opened with), safe to call from several threads.
    view: What the network is shown; see `View`. The training split's augments, the others' do not.
    block: How many examples that are stored side by side stay together in training; see
      `order.epoch_order`.
    examples_ahead: How many examples should be under way for reading and decoding to be kept busy;
      0 where `fetch` has nothing to wait for.
    identity: A hash of the files that `fetch` reads, empty where there are none; see
      `ExampleSource.identity`.
  """

  name: str
  size: int
  constants: Any
  fetch: Callable[[np.ndarray, np.ndarray], Batch]
  view: View
  block: int = 1
  examples_ahead: int = 0
  identity: str = ""

  def batches_ahead(self, share: int) -> int:
    """How many batches of `share` examples to fetch beyond the one that is waited for."""
    return -(-self.examples_ahead // share)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set as training and evaluation see it.

  Attributes:
    name: Its name in tensorflow-datasets, or digits, folder or synthetic.
    class_names: The name of each class, in the order of the labels.
    image_shape: (height, width, channels) of what the views return.
    splits: By name: train, unless only weights are to be measured; validation and test where they
      exist.
    preprocessing: What is done to the pixels of an image in evaluation.
  """

  name: str
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  splits: Mapping[str, Split]
  preprocessing: Preprocessing

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)


def kept_for_training(config: DataConfig, size: int, has_validation: bool) -> int:
  """How many of a training split's examples train: all but the last `config.held_out`.

  Args:
    config: The data section of a config.
    size: Number of examples of the training split.
    has_validation: Whether the data set has a validation split of its own.

  Raises:
    UserError: Examples are held out beside a validation split, or none are left.
  """
  if has_validation and config.held_out:
    raise UserError(
      f"data.held_out={config.held_out}: {config.dataset} has a validation split; set it to 0"
    )
  if not 0 <= config.held_out < size:
    raise UserError(
      f"data.held_out={config.held_out}: {config.dataset} has {size} training examples; "
      "hold out fewer"
    )
  return size - config.held_out


def positions(epochs: np.ndarray, examples: np.ndarray) -> Batch:
  """The part of a batch that every data set has: which example, in which epoch, with weight 1."""
  return {
    "epoch": np.asarray(epochs, np.int32),
    "example": np.asarray(examples, np.int32),
    "weight": np.ones(len(examples), np.float32),
  }


def fingerprint(dataset: Dataset) -> dict[str, str]:
  """What a run that resumes must find again, for each split: its size, and a hash of its arrays.

  The arrays are all pixels and labels of a resident set, and the mean image of a streaming one, for
  which a hash of its files (their names and sizes, or their names and labels) follows.
  """
  return {
    name: f"{split.size} examples, {_hash(split.constants)}"
    + (f", files {split.identity}" if split.identity else "")
    for name, split in dataset.splits.items()
  }


def examples_fingerprint(split: Split) -> str:
  """Which examples a split has, whatever is shown of them: what an ensemble's members must share.

  Of a resident set the hash is that of pixels and labels, of a streaming one that of its files.
  """
  arrays = {name: split.constants[name] for name in ("images", "labels") if name in split.constants}
  return f"{split.size} examples, {_hash(arrays)}, files {split.identity}"


def require_same_data(dataset: Dataset, saved: Mapping[str, str]) -> None:
  """Raises a UserError that names the split unless a data set has the fingerprint saved."""
  found = fingerprint(dataset)
  for name in {**found, **saved}:
    # Earlier checkpoints hold no hash of the files.
    short, _, _ = found.get(name, "").partition(", files ")
    if saved.get(name) not in (found.get(name), short or None):
      raise UserError(
        f"the {name} split of {dataset.name} is not the one that this run has seen so far "
        f"({saved.get(name, 'none')}; here {found.get(name, 'none')}): give its data_dir, or start "
        "a new --workdir"
      )


def _hash(constants: Any) -> str:
  digest = hashlib.blake2b(digest_size=8)
  for path, leaf in jax.tree_util.tree_leaves_with_path(constants):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.data)
  return digest.hexdigest()
