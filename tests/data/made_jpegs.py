"""A made data set of small JPEGs, as an `ExampleSource`; other processes make the same."""

import functools

from pictures import encode, scene

from resnet_jax.data import augment, streaming
from resnet_jax.data.config import DataConfig, StreamingConfig
from resnet_jax.data.example_source import ExampleSource
from resnet_jax.data.preprocessing import Preprocessing

SMALL = StreamingConfig(
  image_size=24, short_side_min=28, short_side_max=56, short_side_evaluation=28, decode_threads=2
)


@functools.cache
def picture(i: int) -> bytes:
  """The i-th picture, of a size of its own."""
  return encode(scene(40 + i % 7, 64 - i % 11, seed=i), quality=80 + i % 15)


class MadeJpegs(ExampleSource):
  """`size` pictures with the labels 0 and 1; some places may hold other bytes.

  Args:
    size: Number of examples.
    instead: Bytes that stand in place of pictures, by number.
  """

  class_names = ("even", "odd")

  def __init__(self, size: int, instead: dict[int, bytes] | None = None):
    self._size, self._instead = size, instead or {}

  def __len__(self) -> int:
    return self._size

  def read(self, i: int) -> tuple[bytes, int]:
    return (self._instead[i] if i in self._instead else picture(i)), i % 2

  def locate(self, i: int) -> str:
    return f"record {i} of made"


def dataset_of(source, seed=0, settings=SMALL):
  """All of it is both splits."""
  colors = {
    "color_magnitudes": augment.ALEXNET_MAGNITUDES,
    "color_components": augment.ALEXNET_COMPONENTS,
  }
  parts = dict.fromkeys(("train", "validation"), (source, range(len(source))))
  return streaming.build_dataset(
    DataConfig("made", streaming=settings), seed, parts, Preprocessing((0.0, 0.0, 0.0)), colors
  )
