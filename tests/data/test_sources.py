"""Data sets by name: what they hold, how they are split, and what a user is told."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from resnet_jax.data import DATASETS, DataConfig, SyntheticConfig, open_dataset, resident_dataset
from resnet_jax.data.dataset import examples_fingerprint, fingerprint, require_same_data
from resnet_jax.data.sources import digits, hold_out
from resnet_jax.errors import UserError

CLASSES = tuple("abcdefghij")


@pytest.fixture
def prepared(tmp_path):
  """A folder with a small stand-in for what `resnet-jax prepare cifar10` writes."""
  generator = np.random.default_rng(0)
  path = tmp_path / "resnet_jax" / "cifar10" / "images.npz"
  path.parent.mkdir(parents=True)
  np.savez(
    path,
    train_images=generator.integers(0, 256, (30, 32, 32, 3), np.uint8),
    train_labels=generator.integers(0, 10, 30).astype(np.int32),
    test_images=generator.integers(0, 256, (11, 32, 32, 3), np.uint8),
    test_labels=generator.integers(0, 10, 11).astype(np.int32),
    class_names=np.array(CLASSES),
  )
  return tmp_path


@pytest.mark.parametrize("reads_file", [True, False])
def test_digits_are_each_of_scikit_learns_exactly_once(reads_file, monkeypatch):
  if not reads_file:  # As where a version of scikit-learn keeps it elsewhere.
    monkeypatch.setattr(pathlib.Path, "is_file", lambda path: False)
  data = load_digits()
  splits = digits()
  assert {name: len(labels) for name, (_, labels) in splits.items()} == {
    "train": 1257,
    "validation": 180,
    "test": 360,
  }

  def rows(images, labels):
    return np.column_stack([images.reshape(len(images), -1), labels])

  ours = np.concatenate([rows(images, labels) for images, labels in splits.values()])
  # 0 … 16 on the scale 0 … 255: rounded to the nearest, and so without loss.
  theirs = rows(np.floor(data.images * 255 / 16 + 0.5), data.target)
  np.testing.assert_array_equal(*(np.array(sorted(map(tuple, table))) for table in (ours, theirs)))
  assert len(theirs) == 1797
  for images, _ in splits.values():
    assert images.dtype == np.uint8
    assert images.shape[1:] == (8, 8, 1)
    assert (images.min(), images.max()) == (0, 255)


def test_digits_are_split_in_equal_parts_of_each_class():
  counts = np.array([np.bincount(labels, minlength=10) for _, labels in digits().values()])
  share = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
  assert np.abs(counts - share).max() <= 1


def test_digits_open_without_augmentation_of_their_validation_and_test_splits():
  dataset = open_dataset(DataConfig("digits"), seed=0)
  assert dataset.name == "digits"
  assert dataset.class_names == tuple("0123456789")
  assert dataset.image_shape == (8, 8, 1)
  assert {name: split.size for name, split in dataset.splits.items()} == {
    "train": 1257,
    "validation": 180,
    "test": 360,
  }


def test_digits_need_no_tensorflow():
  blocked = (
    "import sys\n"
    "for name in ('tensorflow', 'tensorflow_datasets', 'matplotlib'): sys.modules[name] = None\n"
    "from resnet_jax.data import DataConfig, open_dataset\n"
    "print(open_dataset(DataConfig('digits'), 0).splits['train'].size)\n"
  )
  command = [sys.executable, "-c", blocked]
  result = subprocess.run(command, check=False, capture_output=True, text=True)
  assert result.stdout == "1257\n", result.stderr


@pytest.mark.parametrize("dataset", ["digits", "synthetic"])
def test_sets_with_a_validation_split_hold_nothing_out(dataset):
  with pytest.raises(UserError, match=f"held_out=5: {dataset} has a validation split"):
    open_dataset(DataConfig(dataset, held_out=5), seed=0)


def test_synthetic_sets_have_the_sizes_asked_for_and_follow_the_seed():
  settings = SyntheticConfig(9, 4, image_size=6, num_classes=3)
  config = DataConfig("synthetic", synthetic=settings)
  one, again, other = (open_dataset(config, seed).splits["train"].constants for seed in (1, 1, 2))
  assert one["images"].shape == (9, 6, 6, 3)
  assert set(one["labels"]) <= {0, 1, 2}
  np.testing.assert_array_equal(one["images"], again["images"])
  assert np.any(one["images"] != other["images"])
  dataset = open_dataset(config, seed=1)
  assert dataset.num_classes == 3
  sizes = {name: split.size for name, split in dataset.splits.items()}
  assert sizes == {"train": 9, "validation": 4, "test": 4}


def test_examples_have_a_fingerprint_of_their_own_whatever_is_shown_of_them():
  def fingerprint(seed=0, mean="pixel"):
    config = DataConfig("synthetic", mean=mean)
    return examples_fingerprint(open_dataset(config, seed).splits["validation"])

  assert fingerprint() == fingerprint(mean="channel") != fingerprint(seed=1)


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_the_labels_are_part_of_a_data_set_s_identity(prepared, dataset):
  opened = open_dataset(DataConfig(dataset, str(prepared)), 0)
  saved = fingerprint(opened)
  for name, split in opened.splits.items():
    labels = np.asarray(split.constants["labels"]).copy()
    first, second = 0, int(np.argmax(labels != labels[0]))
    labels[[first, second]] = labels[[second, first]]
    changed = dataclasses.replace(split, constants={**split.constants, "labels": labels})
    other = dataclasses.replace(opened, splits={**opened.splits, name: changed})
    assert examples_fingerprint(changed) != examples_fingerprint(split)
    found = fingerprint(other)
    assert {each for each in saved if saved[each] != found[each]} == {name}
    with pytest.raises(UserError, match=f"the {name} split of {dataset} is not the one"):
      require_same_data(other, saved)


def test_prepared_sets_open_as_written_in_the_official_order(prepared):
  dataset = open_dataset(DataConfig("cifar10", str(prepared)), seed=0)
  assert dataset.class_names == CLASSES
  assert dataset.image_shape == (32, 32, 3)
  assert set(dataset.splits) == {"train", "test"}
  with np.load(prepared / "resnet_jax" / "cifar10" / "images.npz") as file:
    for name, split in dataset.splits.items():
      np.testing.assert_array_equal(split.constants["images"], file[f"{name}_images"])
      np.testing.assert_array_equal(split.constants["labels"], file[f"{name}_labels"])


def test_the_last_training_examples_are_held_out_and_not_in_the_mean(prepared):
  config = DataConfig("cifar10", str(prepared))
  whole = open_dataset(config, seed=0).splits
  splits = open_dataset(dataclasses.replace(config, held_out=7), seed=0).splits
  assert {name: split.size for name, split in splits.items()} == {
    "train": 23,
    "validation": 7,
    "test": 11,
  }
  for field in ("images", "labels"):
    parts = [splits[name].constants[field] for name in ("train", "validation")]
    np.testing.assert_array_equal(np.concatenate(parts), whole["train"].constants[field])
    np.testing.assert_array_equal(splits["test"].constants[field], whole["test"].constants[field])
  kept = whole["train"].constants["images"][:23].astype(np.float64)
  for split in splits.values():
    np.testing.assert_allclose(split.constants["mean"], kept.mean(0), rtol=1e-6)


@pytest.mark.parametrize("held_out", [-1, 30, 31])
def test_holding_out_all_or_less_than_nothing_is_a_users_error(prepared, held_out):
  with pytest.raises(UserError, match=f"held_out={held_out}: cifar10 has 30 training examples"):
    open_dataset(DataConfig("cifar10", str(prepared), held_out=held_out), seed=0)


def test_an_unknown_set_is_a_users_error_that_lists_the_known():
  with pytest.raises(UserError, match="unknown data set 'no_such'") as error:
    open_dataset(DataConfig("no_such"), seed=0)
  assert all(name in str(error.value) for name in DATASETS)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_a_set_that_is_not_prepared_says_the_command_that_prepares_it(tmp_path, dataset):
  with pytest.raises(UserError) as error:
    open_dataset(DataConfig(dataset, str(tmp_path)), seed=0)
  command = f"`resnet-jax prepare {dataset} --data-dir {tmp_path}`"
  assert f"{dataset} is not prepared" in str(error.value)
  assert str(error.value).endswith(command)


def damage(path, kind):
  content = path.read_bytes()
  middle = len(content) // 2
  path.write_bytes(
    {
      "truncated": content[:middle],
      "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
      "text": b"not an archive",
      "empty": b"",
    }[kind]
  )


@pytest.mark.parametrize(
  "kind",
  [
    "truncated",
    "flipped",
    "text",
    "empty",
  ],
)
def test_a_damaged_file_is_a_users_error_that_names_it(prepared, kind):
  path = prepared / "resnet_jax" / "cifar10" / "images.npz"
  damage(path, kind)
  with pytest.raises(UserError, match="is damaged") as error:
    open_dataset(DataConfig("cifar10", str(prepared)), seed=0)
  assert str(path) in str(error.value)


@pytest.mark.long
def test_cifar_10_has_its_published_mean_color_and_the_papers_split(test_data, monkeypatch):
  folder = test_data / "cifar10"
  if not folder.is_dir():
    pytest.skip(f"no CIFAR-10 at {folder}")
  monkeypatch.syspath_prepend(str(folder))
  import cifar10_packed

  data = cifar10_packed.load(str(folder))
  arrays = {name: (data[f"{name}_images"], data[f"{name}_labels"]) for name in ("train", "test")}
  config = DataConfig("cifar10", mean="channel")
  splits = resident_dataset("cifar10", arrays, CLASSES, config).splits
  # The numbers that everyone uses: 0.4914, 0.4822, 0.4465 of 255.
  mean = splits["test"].constants["mean"]
  np.testing.assert_allclose(mean / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
  parts = hold_out(arrays, dataclasses.replace(config, held_out=5000))
  sizes = {name: len(labels) for name, (_, labels) in parts.items()}
  assert sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
