"""Data sets of known size, black: as the real ones but for what is seen."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from resnet_jax.data import DataConfig, StreamingConfig, open_dataset
from resnet_jax.data.blank import blank_dataset
from resnet_jax.errors import UserError

ZEROS = np.zeros(2, np.int32)


def shapes(dataset):
  return {
    name: (
      split.size,
      {key: (array.shape, array.dtype) for key, array in split.constants.items()},
      {key: (a.shape, a.dtype) for key, a in split.fetch(ZEROS, ZEROS).items()},
    )
    for name, split in dataset.splits.items()
  }


@pytest.mark.parametrize("mean", ["pixel", "channel"])
def test_imagenet_has_its_sizes_and_its_views(mean):
  dataset = blank_dataset(DataConfig("imagenet2012", mean=mean), 0)
  assert dataset.num_classes == 1000
  assert {name: split.size for name, split in dataset.splits.items()} == {
    "train": 1_281_167,
    "validation": 50_000,
  }
  train = dataset.splits["train"]
  batch = train.fetch(ZEROS, ZEROS)
  assert batch["image"].shape == (2, 224, 224, 3)
  assert batch["image"].dtype == np.uint8
  np.testing.assert_array_equal(batch["weight"], 1)
  images, labels = train.view(train.constants, batch, jax.random.key(0))
  assert (images.shape, labels.shape) == ((2, 224, 224, 3), (2,))
  assert train.constants["mean"].shape == ((224, 224, 3) if mean == "pixel" else (3,))


def test_settings_are_those_of_the_config():
  streaming = StreamingConfig(image_size=64, short_side_evaluation=72, short_side_min=72)
  config = DataConfig("imagenet2012", mean=(1.0, 2.0, 3.0), streaming=streaming)
  dataset = blank_dataset(config, 0)
  assert dataset.image_shape == (64, 64, 3)
  np.testing.assert_array_equal(dataset.splits["train"].constants["mean"], [1, 2, 3])
  with pytest.raises(UserError, match="set it to 0"):
    blank_dataset(dataclasses.replace(config, held_out=5), 0)


def test_what_has_no_known_size_is_none():
  for name in ("folder", "food101", "digits", "synthetic"):
    assert blank_dataset(DataConfig(name), 0) is None


@pytest.mark.parametrize("held_out", [0, 5000])
def test_cifar10_looks_as_the_prepared_one_does(held_out, tmp_path):
  from resnet_jax.data.prepared import prepared_dir, write_npz

  def pictures(size):
    return np.zeros((size, 32, 32, 3), np.uint8), np.zeros(size, np.int32)

  arrays = {}
  for split, size in (("train", 50_000), ("test", 10_000)):
    arrays[f"{split}_images"], arrays[f"{split}_labels"] = pictures(size)
  path = prepared_dir(tmp_path, "cifar10") / "images.npz"
  write_npz(pathlib.Path(path), class_names=np.array([str(i) for i in range(10)]), **arrays)
  config = DataConfig("cifar10", data_dir=str(tmp_path), held_out=held_out)
  assert shapes(blank_dataset(config, 0)) == shapes(open_dataset(config, 0))
