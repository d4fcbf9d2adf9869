"""Data sets that are decoded on the host: which window of a picture, and which colours.

The pictures are ramps, red growing with the column and green with the row, so that where a crop was
taken, and how large it was, can be read from its pixels.
"""

import colorsys
import pathlib
import threading
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from runs import scratch
from table import Row

from resnet_jax.data import streaming
from resnet_jax.data.folder_source import FolderSource
from resnet_jax.data.prepare import prepare
from resnet_jax.errors import UserError
from resnet_jax.evaluation.protocols import Protocol, make_passes, resolve
from resnet_jax.training.build import build_run
from resnet_jax.training.loop import device_batches

HEIGHT, WIDTH, RED, GREEN = 64, 96, 2, 3
DRAWS, COLOURS = 150, 1500
ALEXNET = (  # as published with AlexNet: magnitudes, and components as columns
  np.array([0.2175, 0.0188, 0.0045]),
  np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]),
)


# The pictures.


def write(root, counts, picture):
  """Writes pictures to ROOT/SPLIT/CLASS, of two classes, numbered through."""
  number = 0
  for split, count in counts.items():
    for name in ("a", "b"):
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        PIL.Image.fromarray(picture(number)).save(root / split / name / f"{i}.png")
        number += 1


def ramp(number):
  rows, columns = np.mgrid[:HEIGHT, :WIDTH]
  return np.stack([RED * columns, GREEN * rows, np.full_like(rows, number)], -1).astype(np.uint8)


def noise(number):
  """A square of 40x40 pixels, whose colours depend on each other."""
  generator = np.random.default_rng(number)
  colors = generator.normal(size=(40, 40, 3)) @ [[60, 30, 10], [0, 20, 15], [0, 0, 10]]
  return np.clip(128 + colors, 0, 255).astype(np.uint8)


def make_ramps(root):
  write(root, {"train": 12, "val": 1}, ramp)


def make_noises(root):
  """Those whose statistics have been computed, at the size of the rows."""
  write(root, {"train": 2, "val": 1}, noise)
  prepare("folder", str(root), image_size=16, short_side=16)


def make_damaged(root):
  write(root, {"train": 3, "val": 1}, ramp)
  (root / "train" / "a" / "1.png").write_bytes(b"nothing")


FOLDERS = {"ramps": make_ramps, "noises": make_noises, "damaged": make_damaged}


def build(config):
  """The run, whose pictures are made where they are not there yet."""
  root = pathlib.Path(config.data.data_dir)
  if not root.exists():
    FOLDERS[root.name](root)
  return build_run(config)


def splits(config):
  return build(config).dataset.splits


def resized(number, size, interpolation="bilinear"):
  """A square of noise made smaller by Pillow."""
  kind = PIL.Image.Resampling[interpolation.upper()]
  return np.asarray(PIL.Image.fromarray(noise(number)).resize((size, size), kind), float)


# What is measured.


def windows(config, split="train"):
  """Top, left, height and width, in stored pixels, of a window that is drawn many times."""
  batch = splits(config)[split].fetch(np.arange(DRAWS), np.zeros(DRAWS, int))
  images = batch["image"].astype(float)
  size = images.shape[1]
  # The borders are a little off, where the filter meets the picture's own.
  inside = np.arange(2, size - 2)
  found = []
  for color, per_pixel, axis in ((1, GREEN, 2), (0, RED, 1)):
    values = images[..., color].mean(axis)[:, inside] / per_pixel + 0.5
    slopes, starts = np.polyfit(inside + 0.5, values.T, 1)
    found += [(starts, slopes * size)]
  (top, height), (left, width) = found
  return top, left, height, width


def ends(values):
  return np.array([np.min(values), np.max(values)])


def areas(config):
  _, _, height, width = windows(config)
  return ends(height * width / (HEIGHT * WIDTH))


def aspects(config):
  _, _, height, width = windows(config)
  return ends(width / height)


def short_sides(config):
  """The short sides that pictures are resized to before they are cropped."""
  size = config.data.streaming.image_size
  return ends(HEIGHT * size / windows(config)[2])


def evaluated_height(config):
  return ends(windows(config, "validation")[2])


def sizes(config):
  run = build(config)
  batch = run.dataset.splits["train"].fetch(np.zeros(1, int), np.zeros(1, int))
  return {"view": run.dataset.image_shape, "batch": batch["image"].shape}


def validation_pixels(config):
  """Of the first class's picture: the single view, and the first and fifth of ten crops."""
  run = build(config)
  split, own = run.dataset.splits["validation"], config.data.streaming
  protocol = resolve(Protocol("ten_crop"), run.dataset, split, own)
  (ten,) = make_passes(protocol, split, own, run.model, 8)
  one = split.fetch(np.zeros(2, int), np.arange(2))
  five = next(ten.batches())
  (first,) = np.flatnonzero(one["label"] == 0)
  return np.stack([one["image"][first], five["image"][first, 0], five["image"][first, 4]]) * 1.0


def views(config, image, draws):
  """Training views of an image in many epochs, on the scale of pixels."""
  split = splits(config)["train"]
  numbers = np.arange(draws, dtype=np.int32)
  images = np.broadcast_to(np.asarray(image, np.uint8), (draws, *np.shape(image)))
  batch = {"image": images, "epoch": numbers, "example": 0 * numbers, "label": 0 * numbers}
  key = jax.random.key(0)
  shown, _ = jax.jit(split.view)(split.constants, jax.tree.map(jnp.asarray, batch), key)
  return (np.asarray(shown, float) + 0.5) * 255


def mirrored(config):
  """The share of the views that are mirrored."""
  found = views(config, [[[0, 0, 0], [9, 9, 9]]], 600)[:, 0, 0, 0]
  return np.isclose(found, 9, atol=1e-3).mean()


def shifts(config):
  """The colours that are added to a grey image, each a row, where white is 1."""
  return ((views(config, np.full((1, 1, 3), 128), COLOURS)[:, 0, 0] - 128) / 255).round(6)


def deviation(config):
  """Of the amounts of noise along AlexNet's components, in units of their magnitudes."""
  magnitudes, components = ALEXNET
  return np.linalg.solve(components * magnitudes, shifts(config).T).std()


def covariance(config):
  return np.cov(shifts(config).T) / config.data.streaming.color_noise**2


def covariance_of(kind):
  if kind == "alexnet":
    magnitudes, components = ALEXNET
    return components @ np.diag(magnitudes**2) @ components.T
  # The components of the covariance, with its eigenvalues as magnitudes: its square.
  found = np.concatenate([resized(i, 16).reshape(-1, 3) / 255 for i in range(4)])
  return np.cov(found.T) @ np.cov(found.T)


def brightness(config):
  """The darkest and the brightest shift of a grey image."""
  return ends(shifts(config))


def contrast(config):
  """The ends of what the difference of two greys is multiplied by."""
  found = views(config, [[[100] * 3, [150] * 3]], COLOURS)[:, 0, :, 0]
  return ends((found[:, 1] - found[:, 0]) / 50)


def hues_and_saturations(config):
  return np.array(
    [colorsys.rgb_to_hsv(*image[0, 0]) for image in views(config, [[[150, 100, 100]]], COLOURS)]
  )


def saturation(config):
  return ends(hues_and_saturations(config)[:, 1] / (1 / 3))


def hue(config):
  """The ends of the turns of a red, whose hue is 0."""
  return ends((hues_and_saturations(config)[:, 0] + 0.5) % 1 - 0.5)


def around(center):
  return lambda width: np.array([center - width, center + width])


def readable(config):
  """How many of the six training pictures are shown; or that the run refuses."""
  try:
    return splits(config)["train"].fetch(np.zeros(6, int), np.arange(6))["weight"].sum()
  except UserError:
    return "refused"


def block(config):
  """The largest number of neighbours that stay together in an epoch of training."""
  batches = device_batches(build(config), 0)
  order = np.concatenate([np.asarray(next(batches)["example"]).ravel() for _ in range(3)])
  batches.close()
  for size in range(8, 0, -1):
    for offset in range(size):
      blocks = (order + offset) // size
      if np.count_nonzero(np.diff(blocks)) == len(set(blocks.tolist())) - 1:
        return size
  return 0


def decoding_at_once(config):
  """The most pictures that are decoded at a time."""
  under_way, most, lock = [0], [0], threading.Lock()
  decode = streaming.decode_window

  def counted(*arguments, **more):
    with lock:
      under_way[0] += 1
      most[0] = max(most[0], under_way[0])
    time.sleep(0.005)
    try:
      return decode(*arguments, **more)
    finally:
      with lock:
        under_way[0] -= 1

  with mock.patch.object(streaming, "decode_window", counted):
    splits(config)["train"].fetch(np.zeros(24, int), np.arange(24))
  return most[0]


def reads(config):
  """In two epochs of six pictures: how many are read from disk, and how many come as pixels."""
  read, decode, counts = FolderSource.read, streaming.decode_window, {"read": 0, "pixels": 0}

  def counted_read(self, number):
    counts["read"] += 1
    return read(self, number)

  def counted_decode(image, *arguments, **more):
    counts["pixels"] += isinstance(image, np.ndarray)
    return decode(image, *arguments, **more)

  fetch = splits(config)["train"].fetch  # Opening it reads some, to know their sizes.
  with (
    mock.patch.object(FolderSource, "read", counted_read),
    mock.patch.object(streaming, "decode_window", counted_decode),
  ):
    for epoch in range(2):
      fetch(np.full(6, epoch), np.arange(6))
  return counts


# Crops of 16 pixels out of pictures whose short side is made 16, without noise.
STREAMED = {
  f"data.streaming.{name}": value
  for name, value in {
    "image_size": 16,
    "short_side_min": 16,
    "short_side_max": 16,
    "short_side_evaluation": 16,
    "color_noise": 0.0,
    "flip": False,
    "decode_threads": 1,
  }.items()
}


def row(field, values, measure, expect, folder="ramps", rtol=1e-5, **beside):
  more = {f"data.streaming.{name.replace('__', '.')}": value for name, value in beside.items()}
  place = {"data.dataset": "folder", "data.data_dir": str(scratch() / folder)}
  return Row(f"data.streaming.{field}", values, measure, expect, STREAMED | more | place, rtol)


def inception(field, values, measure, expect, **beside):
  """A row of Inception's crops, by default of a quarter of the picture, square."""
  settings = {"area_min": 0.25, "area_max": 0.25, "aspect_min": 1.0, "aspect_max": 1.0} | beside
  settings.pop(field)
  settings = {f"inception__{name}": value for name, value in settings.items()}
  return row(f"inception.{field}", values, measure, expect, rtol=0.04, crop="inception", **settings)


QUARTER = {"area_min": 0.25, "area_max": 0.25, "aspect_min": 1.0, "aspect_max": 1.0}
ROWS = (
  row(
    "image_size",
    (16, 12),
    sizes,
    lambda size: {"view": (size, size, 3), "batch": (1, size, size, 3)},
  ),
  row(
    "crop",
    ("scale_jitter", "inception"),
    areas,
    {"scale_jitter": ends(HEIGHT / WIDTH), "inception": ends(0.25)}.get,
    rtol=0.03,
    **{f"inception__{name}": value for name, value in QUARTER.items()},
  ),
  row(
    "short_side_min",
    (16, 24),
    short_sides,
    lambda side: np.array([side, 32]),
    short_side_max=32,
    rtol=0.02,
  ),
  row("short_side_max", (24, 40), short_sides, lambda side: np.array([16, side]), rtol=0.02),
  inception("area_min", (0.64, 0.16), areas, lambda area: np.array([area, 0.64]), area_max=0.64),
  inception("area_max", (0.16, 0.64), areas, lambda area: np.array([0.16, area]), area_min=0.16),
  inception("aspect_min", (1.0, 0.5), aspects, lambda aspect: np.array([aspect, 1.0])),
  inception("aspect_max", (1.0, 2.0), aspects, lambda aspect: np.array([1.0, aspect])),
  row(
    "short_side_evaluation",
    (16, 32),
    evaluated_height,
    lambda side: ends(HEIGHT * 16 / side),
    rtol=0.02,
  ),
  row(
    "interpolation",
    ("bilinear", "bicubic"),
    validation_pixels,
    lambda kind: np.stack([resized(4, 16, kind)] * 3),
    "noises",
  ),
  row("flip", (False, True), mirrored, {False: 0.0, True: 0.5}.get, rtol=0.2),
  row("color_noise", (0.1, 0.4, 0.0), deviation, lambda noise: noise, rtol=0.08),
  row(
    "color_components",
    ("alexnet", "training_split"),
    covariance,
    covariance_of,
    "noises",
    color_noise=0.5,
    rtol=0.15,
  ),
  row("color_jitter.brightness", (0.0, 0.2), brightness, around(0), rtol=0.03),
  row("color_jitter.contrast", (0.0, 0.4), contrast, around(1), rtol=0.03),
  row("color_jitter.saturation", (0.0, 0.4), saturation, around(1), rtol=0.03),
  row("color_jitter.hue", (0.0, 0.1), hue, around(0), rtol=0.03),
  row("undecodable", ("skip", "stop"), readable, {"skip": 5.0, "stop": "refused"}.get, "damaged"),
  row("shuffle_block", (1, 3), block, lambda size: size),
  row("decode_threads", (1, 3), decoding_at_once, lambda threads: threads),
  row(
    "cache",
    ("nothing", "encoded", "decoded"),
    reads,
    {
      "nothing": {"read": 12, "pixels": 0},
      "encoded": {"read": 6, "pixels": 0},
      "decoded": {"read": 6, "pixels": 12},
    }.get,
  ),
)
