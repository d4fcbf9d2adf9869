"""Data sets that are on the device: which examples, and which pixels the network is shown."""

import functools

import jax
import numpy as np
from runs import scratch
from table import Row

from resnet_jax.training.build import build_run

DRAWS = 400


def splits(config):
  return build_run(config).dataset.splits


def shown(config):
  """What the network is shown of both splits."""
  found = {}
  for name in ("train", "validation"):
    split = splits(config)[name]
    numbers = np.arange(split.size)
    batch = split.fetch(np.zeros_like(numbers), numbers)
    found[name] = np.asarray(split.view(split.constants, batch, jax.random.key(0))[0])
  return found


@functools.cache
def pixels():
  """Those of the synthetic set of seed 0, drawn here."""
  generator = np.random.default_rng(0)
  train = generator.integers(0, 256, (24, 4, 4, 3), np.uint8)
  generator.integers(0, 3, 24)
  validation = generator.integers(0, 256, (8, 4, 4, 3), np.uint8)
  return {"train": train.astype(float), "validation": validation.astype(float)}


def normalised(mean, scale=1.0, std=(1.0,), channels="RGB"):
  def normalise(images):
    images = images[..., ::-1] if channels == "BGR" else images
    return (images / scale - mean) / np.array(std)

  return {name: normalise(images) for name, images in pixels().items()}


def means(kind):
  return pixels()["train"].mean({"pixel": 0, "channel": (0, 1, 2)}[kind])


def draws(config):
  """One training image in many epochs, and the image itself."""
  split = splits(config)["train"]
  batch = split.fetch(np.arange(DRAWS), np.full(DRAWS, 5))
  images, _ = split.view(split.constants, batch, jax.random.key(0))
  return np.asarray(images), split.constants["images"][5] / 255


def offsets(config):
  """The places, from its own, at which the image was cropped, each once."""
  images, image = draws(config)
  places = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
  crops = np.stack([_shifted(image, *place) for place in places])
  are_equal = np.isclose(crops[:, None], images, atol=1e-6).all((2, 3, 4))
  return [place for place, found in zip(places, are_equal.any(1), strict=True) if found]


def _shifted(image, down, right):
  padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
  return padded[3 + down :, 3 + right :][: len(image), : len(image)]


def mirrored(config):
  """The share of the images that are mirrored; all others have to be as they are."""
  images, image = draws(config)
  flips = np.array([np.allclose(drawn, image[:, ::-1], atol=1e-6) for drawn in images])
  assert all(flips[i] or np.allclose(images[i], image, atol=1e-6) for i in range(DRAWS))
  return flips.mean()


# CIFAR-10 as `resnet-jax prepare` leaves it, of one grey a folder.


@functools.cache
def cifar(grey, own_folder=False):
  root = scratch() / f"cifar{grey}"
  folder = root / ("cifar10" if own_folder else "resnet_jax/cifar10")
  folder.mkdir(parents=True)
  labels = np.arange(10, dtype=np.int32)
  images = np.full((10, 4, 4, 3), grey, np.uint8)
  np.savez(
    folder / "images.npz",
    train_images=images,
    train_labels=labels,
    test_images=images,
    test_labels=labels,
    class_names=np.array([f"class {i}" for i in range(10)]),
  )
  return str(root)


def grey(config):
  return np.unique(splits(config)["train"].constants["images"]).tolist()


def labels(config):
  return {name: split.constants["labels"].tolist() for name, split in splits(config).items()}


def held_out(count):
  found = {"train": list(range(10 - count)), "test": list(range(10))}
  return found | ({"validation": list(range(10 - count, 10))} if count else {})


def outline(config):
  data = build_run(config).dataset
  sizes = {name: split.size for name, split in data.splits.items()}
  return {"shape": list(data.image_shape), "classes": data.num_classes, **sizes}


OUTLINES = {
  "synthetic": ([4, 4, 3], 3, (24, 8, 8)),
  "digits": ([8, 8, 1], 10, (1257, 180, 360)),
}


def outline_of(name="synthetic", **changes):
  shape, classes, sizes = OUTLINES[name]
  sizes = dict(zip(("train", "validation", "test"), sizes, strict=True))
  return {"shape": shape, "classes": classes, **sizes} | changes


ZERO = {"data.mean": (0.0, 0.0, 0.0)}
UNSCALED = {"data.scale": 1.0}
CIFAR = {"data.dataset": "cifar10"}
ROWS = (
  Row("data.dataset", ("synthetic", "digits"), outline, outline_of, {"data.mean": "pixel"}),
  Row("data.data_dir", (cifar(7), cifar(9)), grey, {cifar(7): [7], cifar(9): [9]}.get, CIFAR),
  Row(
    "data.prepared_dir",
    (None, cifar(8, own_folder=True)),
    grey,
    lambda folder: [8] if folder else [7],
    CIFAR | {"data.data_dir": cifar(7)},
  ),
  Row("data.held_out", (0, 2), labels, held_out, CIFAR | {"data.data_dir": cifar(7)}),
  Row(
    "data.mean",
    ("pixel", "channel", (10.0, 20.0, 30.0)),
    shown,
    lambda mean: normalised(means(mean) if isinstance(mean, str) else mean),
    UNSCALED,
  ),
  Row(
    "data.std",
    ((1.0,), (2.0, 4.0, 8.0), (2.0,)),
    shown,
    lambda std: normalised(0, std=std),
    UNSCALED | ZERO,
  ),
  Row("data.scale", (1.0, 51.0), shown, lambda scale: normalised(0.5, scale)),
  Row(
    "data.channels",
    ("RGB", "BGR"),
    shown,
    lambda order: normalised((10.0, 20.0, 30.0), channels=order),
    UNSCALED | {"data.mean": (10.0, 20.0, 30.0)},
  ),
  Row(
    "data.resident.padding",
    (0, 1, 2),
    offsets,
    lambda p: [(i, j) for i in range(-p, p + 1) for j in range(-p, p + 1)],
    ZERO,
  ),
  Row("data.resident.flip", (False, True), mirrored, {False: 0.0, True: 0.5}.get, ZERO, rtol=0.2),
  Row(
    "data.synthetic.train_examples",
    (24, 40),
    outline,
    lambda count: outline_of(train=count),
  ),
  Row(
    "data.synthetic.validation_examples",
    (8, 12),
    outline,
    lambda count: outline_of(validation=count, test=count),
  ),
  Row(
    "data.synthetic.image_size",
    (4, 6),
    outline,
    lambda size: outline_of(shape=[size, size, 3]),
  ),
  Row(
    "data.synthetic.num_classes",
    (3, 5),
    outline,
    lambda count: outline_of(classes=count),
  ),
)
