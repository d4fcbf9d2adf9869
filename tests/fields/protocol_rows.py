"""What an evaluation shows: the fields of a protocol, and what they make of a run's pictures."""

import numpy as np
from runs import BASE, scratch
from streaming_rows import GREEN, HEIGHT, STREAMED, WIDTH, build
from table import Row, with_fields

from resnet_jax.evaluation.protocols import NAMES, Protocol, make_passes, resolve

PROTOCOL = Protocol()
FIELDS = STREAMED | {"data.dataset": "folder", "data.data_dir": str(scratch() / "ramps")}


def batches(protocol):
  """The first batch of pixels of each pass, by the protocol, through two pictures."""
  config = with_fields(BASE, FIELDS)
  run = build(config)
  split, own = run.dataset.splits["validation"], config.data.streaming
  resolved = resolve(protocol, run.dataset, split, own)
  return [
    next(iter(each.batches()))["image"] for each in make_passes(resolved, split, own, run.model, 8)
  ]


def shapes(protocol):
  """Of what is shown of one picture in each pass."""
  return [images.shape[1:] for images in batches(protocol)]


def short_side(protocol):
  """That to which pictures are resized: how many rows of a crop show all rows of the picture."""
  (images,) = batches(protocol)
  rows = images[0, 2:-2, :, 1].mean(1) / GREEN
  return HEIGHT / np.polyfit(np.arange(len(rows)), rows, 1)[0]


def long_side(quantum):
  """That of a picture whose short side is 16."""
  return int(WIDTH * 16 / HEIGHT / quantum + 0.5) * quantum


ROWS = (
  Row(
    "name",
    NAMES,
    shapes,
    {"center": [(16, 16, 3)], "ten_crop": [(5, 16, 16, 3)], "dense": [(16, 32, 3)]}.get,
    {"short_sides": (16,)},
  ),
  Row("crop", (None, 12), shapes, lambda size: [(size or 16, size or 16, 3)]),
  Row("short_sides", (None, (32,)), short_side, lambda sides: (sides or (16,))[0], rtol=0.02),
  Row(
    "short_sides",
    ((16,), (16, 32)),
    shapes,
    {(16,): [(16, 24, 3)], (16, 32): [(16, 24, 3), (32, 48, 3)]}.get,
    {"name": "dense", "quantum": 1},
  ),
  Row(
    "quantum",
    (None, 1, 5),
    shapes,
    lambda quantum: [(16, long_side(quantum or 32), 3)],
    {"name": "dense", "short_sides": (16,)},
  ),
)
