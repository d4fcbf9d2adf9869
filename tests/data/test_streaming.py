"""Tests of resnet_jax.data.streaming and decoded_examples."""

import dataclasses
import io
import json
import logging
import shutil
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from resnet_jax.data import augment, decode, evaluation_views, streaming, windows
from resnet_jax.data.config import DataConfig, StreamingConfig
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.data.prepare import prepare
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.statistics import load_statistics, statistics_path
from resnet_jax.data.tfds_source import TfdsSource
from resnet_jax.errors import UserError

SMALL = StreamingConfig(
  image_size=16, short_side_min=18, short_side_max=34, short_side_evaluation=18, decode_threads=2
)
BROKEN = 5


class MadeSource(ExampleSource):
  """24 small made pictures; number 5 is no image, and number 6 is not a labelled record."""

  class_names = ("even", "odd")

  def __init__(self, broken=True):
    self.broken = broken
    self.threads: set[str] = set()

  def __len__(self) -> int:
    return 24

  def read(self, i: int) -> tuple[bytes, int]:
    self.threads.add(threading.current_thread().name)
    if self.broken and i == BROKEN:
      return b"nothing", 1
    if self.broken and i == BROKEN + 1:
      raise UndecodableError("no label")
    noise = np.random.default_rng(i).integers(0, 256, (20 + i, 44 - i, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, "PNG")
    return file.getvalue(), i % 2

  def locate(self, i: int) -> str:
    return f"record {i} of made"


def made_dataset(seed=0, settings=SMALL, source=None, held_out=0):
  source = source or MadeSource()
  kept = len(source) - held_out
  parts = {"train": (source, range(kept)), "validation": (source, range(kept, len(source)))}
  config = DataConfig(dataset="made", streaming=settings)
  colors = {
    "color_magnitudes": np.array(augment.ALEXNET_MAGNITUDES, np.float32),
    "color_components": np.array(augment.ALEXNET_COMPONENTS, np.float32),
  }
  preprocessing = Preprocessing((0.0, 0.0, 0.0))
  return streaming.build_dataset(config, seed, parts, preprocessing, colors)


def fetch(dataset, epoch, examples, split="train"):
  examples = np.asarray(examples, np.int32)
  return dataset.splits[split].fetch(np.full_like(examples, epoch), examples)


def test_a_batch_holds_positions_images_and_labels():
  batch = fetch(made_dataset(), 3, [0, 1, 7])
  assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
    "epoch": ("int32", (3,)),
    "example": ("int32", (3,)),
    "weight": ("float32", (3,)),
    "image": ("uint8", (3, 16, 16, 3)),
    "label": ("int32", (3,)),
  }
  np.testing.assert_array_equal(batch["label"], [0, 1, 1])
  np.testing.assert_array_equal(batch["epoch"], 3)


def test_pixels_depend_on_seed_epoch_and_example_alone():
  everything = np.arange(24)
  want = fetch(made_dataset(), 1, everything)
  one_thread = dataclasses.replace(SMALL, decode_threads=1)
  other = made_dataset(settings=one_thread)
  order = np.random.default_rng(0).permutation(24)
  for part in np.array_split(order, 5):
    got = fetch(other, 1, part)
    chex.assert_trees_all_equal(got, {name: value[part] for name, value in want.items()})


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 2}])
def test_another_seed_or_epoch_shows_other_crops(change):
  seed, epoch = change.get("seed", 0), change.get("epoch", 1)
  good = [i for i in range(24) if i not in (BROKEN, BROKEN + 1)]
  images = fetch(made_dataset(), 1, good)["image"]
  others = fetch(made_dataset(seed), epoch, good)["image"]
  assert (images != others).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("crop", ["scale_jitter", "inception"])
def test_the_training_crop_is_that_of_its_random_words(crop):
  source = MadeSource()
  image = PIL.Image.open(io.BytesIO(source.read(9)[0]))
  size = (image.height, image.width)
  if crop == "inception":
    words = windows.random_words(7, 2, 9, windows.WORDS)
    window = windows.inception_window(*size, words, (0.08, 1), (3 / 4, 4 / 3))
  else:
    words = windows.random_words(7, 2, 9, 3)
    window = windows.scale_jitter_window(*size, words, (18, 34), 16)
  dataset = made_dataset(7, dataclasses.replace(SMALL, crop=crop))
  got = fetch(dataset, 2, [9])["image"][0]
  want = decode.decode_window(source.read(9)[0], lambda *_: window, (16, 16), quick=True)
  np.testing.assert_array_equal(got, want)


def test_evaluation_shows_the_same_centre_crop_in_every_epoch_and_under_every_seed():
  first = fetch(made_dataset(0, held_out=6), 0, range(6), "validation")["image"]
  second = fetch(made_dataset(1, held_out=6), 4, range(6), "validation")["image"]
  np.testing.assert_array_equal(first, second)


def test_held_out_examples_are_the_last_and_in_no_other_split():
  source = MadeSource(broken=False)
  dataset = made_dataset(source=source, held_out=5)
  assert {name: split.size for name, split in dataset.splits.items()} == {
    "train": 19,
    "validation": 5,
  }
  whole = made_dataset(source=source).splits["train"]
  np.testing.assert_array_equal(
    fetch(dataset, 0, range(5), "validation")["label"],
    whole.fetch(np.zeros(5, int), np.arange(19, 24))["label"],
  )
  with pytest.raises(IndexError):
    fetch(dataset, 0, [19])


def test_a_bad_record_keeps_its_place_with_weight_zero_and_is_warned_of_once(caplog):
  dataset = made_dataset()
  with caplog.at_level(logging.WARNING):
    batches = [fetch(dataset, epoch, range(3, 9)) for epoch in range(3)]
  good = made_dataset(source=MadeSource(broken=False))
  for epoch, batch in enumerate(batches):
    np.testing.assert_array_equal(batch["weight"], [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(batch["image"][2:4], 0)
    want = fetch(good, epoch, range(3, 9))["image"]
    np.testing.assert_array_equal(batch["image"][[0, 1, 4, 5]], want[[0, 1, 4, 5]])
  assert dataset.splits["train"].fetch.undecodable == {BROKEN, BROKEN + 1}
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 2
  assert sum("record 5 of made" in message for message in messages) == 1


def test_storage_that_fails_raises_instead_of_losing_examples():
  class Failing(MadeSource):
    def read(self, i):
      raise OSError("stale file handle")

  with pytest.raises(OSError, match="stale file handle"):
    fetch(made_dataset(source=Failing()), 0, range(4))


def test_several_threads_may_fetch_at_once():
  dataset = made_dataset()
  want = [fetch(dataset, epoch, range(24)) for epoch in range(8)]
  got: list = [None] * 8

  def work(epoch):
    got[epoch] = fetch(dataset, epoch, range(24))

  threads = [threading.Thread(target=work, args=(epoch,)) for epoch in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  chex.assert_trees_all_equal(got, want)


def test_no_more_threads_decode_at_a_time_than_are_given(monkeypatch):
  settings = dataclasses.replace(SMALL, decode_threads=3)
  decoding, most, lock = [0], [0], threading.Lock()
  decode_window = decode.decode_window

  def counted(*arguments, **more):
    with lock:
      decoding[0] += 1
      most[0] = max(most[0], decoding[0])
    try:
      time.sleep(0.002)
      return decode_window(*arguments, **more)
    finally:
      with lock:
        decoding[0] -= 1

  monkeypatch.setattr(streaming, "decode_window", counted)
  fetch(made_dataset(settings=settings), 0, list(range(24)) * 4)
  assert most[0] == 3


def test_reads_that_wait_for_storage_wait_together():
  class Slow(MadeSource):
    def read(self, i):
      time.sleep(0.05)
      return super().read(i)

  dataset = made_dataset(settings=dataclasses.replace(SMALL, decode_threads=1), source=Slow())
  for _ in range(3):  # What a read takes is measured meanwhile.
    fetch(dataset, 0, range(24))
  start = time.monotonic()
  fetch(dataset, 0, list(range(24)) * 2)
  assert time.monotonic() - start < 48 * 0.05 / 4  # One after the other would take 48 reads.


def test_a_bad_record_stops_the_run_where_that_is_asked_for():
  dataset = made_dataset(settings=dataclasses.replace(SMALL, undecodable="stop"))
  fetch(dataset, 0, [0, 1])
  with pytest.raises(UserError, match=r"record 5 of made is no whole image .*undecodable=skip"):
    fetch(dataset, 0, range(6))


@pytest.mark.parametrize("kind", ["encoded", "decoded"])
def test_what_is_kept_in_memory_is_read_once_and_shows_the_same(kind, caplog):
  class Counting(MadeSource):
    reads = 0

    def read(self, i):
      Counting.reads += 1
      return super().read(i)

  with caplog.at_level(logging.WARNING):
    dataset = made_dataset(settings=dataclasses.replace(SMALL, cache=kind), source=Counting())
  [message] = [record.getMessage() for record in caplog.records]
  assert f"keeping the 24 {kind} images of made takes about 0.00 GiB of memory" in message
  good = [i for i in range(24) if i not in (BROKEN, BROKEN + 1)]
  sampled, want = Counting.reads, made_dataset(source=MadeSource())
  for epoch in range(3):
    chex.assert_trees_all_equal(fetch(dataset, epoch, good), fetch(want, epoch, good))
  assert Counting.reads - sampled == len(good)


def test_more_than_the_machine_has_is_not_kept_in_memory():
  class Huge(MadeSource):
    def __len__(self):
      return 10**12

    def read(self, i):
      return super().read(i % 5)

  with pytest.raises(UserError, match="cache to encoded, or to nothing"):
    made_dataset(settings=dataclasses.replace(SMALL, cache="decoded"), source=Huge())


def device_batch(images: int = 8):
  generator = np.random.default_rng(0)
  return {
    "epoch": jnp.full(images, 2, jnp.int32),
    "example": jnp.arange(images, dtype=jnp.int32),
    "weight": jnp.ones(images),
    "image": jnp.asarray(generator.integers(0, 256, (images, 6, 6, 3), np.uint8)),
    "label": jnp.arange(images, dtype=jnp.int32),
  }


MEAN = np.arange(6 * 6 * 3, dtype=np.float32).reshape(6, 6, 3)
CONSTANTS = {
  "mean": MEAN,
  "color_magnitudes": np.array(augment.ALEXNET_MAGNITUDES),
  "color_components": np.array(augment.ALEXNET_COMPONENTS),
}


class ViewTest(chex.TestCase):
  """The views on the device, with `jit` and without."""

  def view(self, *, flip, color_noise, **color_jitter):
    settings = {"flip": flip, "color_noise": color_noise, "color_jitter": color_jitter}
    return self.variant(
      lambda batch, key: streaming.training_view(CONSTANTS, batch, key, **settings)
    )

  @chex.variants(with_jit=True, without_jit=True)
  def test_plain_view_subtracts_the_mean_and_ignores_the_key(self):
    batch = device_batch()
    view = self.variant(lambda batch, key: evaluation_views.plain_view({"mean": MEAN}, batch, key))
    images, labels = view(batch, jax.random.key(0))
    assert images.dtype == jnp.float32
    np.testing.assert_array_equal(images, np.asarray(batch["image"], np.float32) - MEAN)
    np.testing.assert_array_equal(labels, batch["label"])
    chex.assert_trees_all_equal(view(batch, jax.random.key(1))[0], images)

  @chex.variants(with_jit=True, without_jit=True)
  def test_the_mean_is_subtracted_after_the_flip(self):
    batch = device_batch(64)
    images, _ = self.view(flip=True, color_noise=0.0)(batch, jax.random.key(0))
    restored = np.asarray(images) + MEAN  # The mean image is not symmetric, so order matters.
    stored = np.asarray(batch["image"], np.float32)
    straight = (restored == stored).all(axis=(1, 2, 3))
    mirrored = (restored == stored[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(straight ^ mirrored, True)
    assert 16 < mirrored.sum() < 48

  @chex.variants(with_jit=True, without_jit=True)
  def test_color_noise_adds_one_color_to_a_whole_image(self):
    batch = device_batch()
    plain, _ = self.view(flip=True, color_noise=0.0)(batch, jax.random.key(0))
    noisy, _ = self.view(flip=True, color_noise=0.1)(batch, jax.random.key(0))
    color = np.asarray(noisy - plain)
    np.testing.assert_allclose(color, np.broadcast_to(color[:, :1, :1], color.shape), atol=1e-4)
    assert np.unique(color[:, 0, 0, 0]).size == len(color)
    # Along the components, in units of their magnitude, the deviation is 0.1.
    basis = np.array(augment.ALEXNET_COMPONENTS) * augment.ALEXNET_MAGNITUDES
    alpha = np.linalg.solve(basis, color[:, 0, 0].T / 255)
    assert 0.03 < alpha.std() < 0.2

  @chex.variants(with_jit=True, without_jit=True)
  def test_color_jitter_comes_before_the_mean(self):
    batch = device_batch()
    plain, _ = self.view(flip=False, color_noise=0.0)(batch, jax.random.key(0))
    view = self.view(flip=False, color_noise=0.0, brightness=0.2)
    jittered, _ = view(batch, jax.random.key(0))
    shift = np.asarray(jittered - plain)
    # One shift an image, but for what is clipped at black and white.
    inside = (np.abs(shift) > 1e-3).mean((1, 2, 3))
    assert (inside > 0.7).all()
    assert len(np.unique(np.round(np.median(shift, (1, 2, 3)), 3))) == 8
    assert (np.asarray(jittered) + MEAN >= -1e-3).all()
    assert (np.asarray(jittered) + MEAN <= 255 + 1e-3).all()

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_view_depends_on_key_epoch_and_example_and_not_on_the_batch(self):
    batch, key = device_batch(), jax.random.key(3)
    view = self.view(flip=True, color_noise=0.1)
    images, labels = view(batch, key)
    order = np.random.default_rng(1).permutation(8)
    moved = jax.tree.map(lambda leaf: leaf[order], batch)
    chex.assert_trees_all_close(view(moved, key), (images[order], labels[order]), atol=1e-4)
    other_epoch = batch | {"epoch": batch["epoch"] + 1}
    assert np.abs(view(other_epoch, key)[0] - images).max() > 1


def imagenet(folder, **changes):
  return DataConfig(dataset="imagenet2012", data_dir=str(folder), **changes)


def test_imagenet_opens_with_its_own_validation_split_and_no_test_split(imagenet_dir):
  dataset = streaming.streaming_dataset(imagenet(imagenet_dir), 0)
  assert {name: split.size for name, split in dataset.splits.items()} == {
    "train": 60,
    "validation": 30,
  }
  assert dataset.image_shape == (224, 224, 3)
  assert dataset.num_classes == 1000


def test_without_a_validation_split_the_last_training_examples_are_held_out(sharded_dirs, tmp_path):
  folder = shutil.copytree(sharded_dirs["tfrecord"], tmp_path / "copy")
  [path] = folder.rglob("dataset_info.json")
  info = json.loads(path.read_text())
  info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
  path.write_text(json.dumps(info))
  prepare("imagenet2012", str(folder), max_statistics_examples=2)
  assert set(streaming.streaming_dataset(imagenet(folder), 0).splits) == {"train"}
  dataset = streaming.streaming_dataset(imagenet(folder, held_out=7), 0)
  assert {name: split.size for name, split in dataset.splits.items()} == {
    "train": 53,
    "validation": 7,
  }
  source = TfdsSource("imagenet2012", "train", folder)
  np.testing.assert_array_equal(
    fetch(dataset, 0, range(7), "validation")["label"], [source.read(i)[1] for i in range(53, 60)]
  )
  with pytest.raises(UserError, match="60 training examples; hold out fewer"):
    streaming.streaming_dataset(imagenet(folder, held_out=60), 0)


def test_imagenet_trains_on_crops_less_the_mean_image(imagenet_dir):
  dataset = streaming.streaming_dataset(imagenet(imagenet_dir), 0)
  split = dataset.splits["validation"]
  batch = split.fetch(np.zeros(30, np.int32), np.arange(30))
  assert batch["weight"].sum() == 30
  statistics = load_statistics(statistics_path(imagenet_dir, "imagenet2012"))
  images, labels = jax.jit(split.view)(split.constants, batch, jax.random.key(0))
  want = batch["image"] - statistics.mean_image
  np.testing.assert_allclose(images, want, atol=1e-4)
  np.testing.assert_array_equal(labels, batch["label"])
  assert np.abs(np.mean(images)) < 20  # Real pictures less their mean: near zero.


def test_the_channel_mean_fits_any_size(imagenet_dir):
  settings = StreamingConfig(image_size=160)
  dataset = streaming.streaming_dataset(
    imagenet(imagenet_dir, mean="channel", streaming=settings), 0
  )
  assert dataset.splits["train"].constants["mean"].shape == (3,)
  assert dataset.image_shape == (160, 160, 3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"streaming": StreamingConfig(image_size=160)}, "--image-size 160"),
    ({"streaming": StreamingConfig(image_size=300)}, "does not fit into a short side of 256"),
    ({"streaming": StreamingConfig(short_side_max=255)}, "exceeds"),
    ({"streaming": StreamingConfig(decode_threads=-1)}, "decode_threads"),
    ({"held_out": 5}, "has a validation split; set it to 0"),
  ],
)
def test_settings_that_cannot_be_met_cost_a_message(imagenet_dir, changes, message):
  with pytest.raises(UserError, match=message):
    streaming.streaming_dataset(imagenet(imagenet_dir, **changes), 0)


def test_what_is_not_prepared_costs_a_message_with_the_command(tmp_path):
  with pytest.raises(UserError, match=f"resnet-jax prepare imagenet2012 --data-dir {tmp_path}"):
    streaming.streaming_dataset(imagenet(tmp_path), 0)
