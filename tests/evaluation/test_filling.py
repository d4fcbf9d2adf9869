"""How many programs an evaluation compiles, and how many examples it computes for nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from resnet_jax import devices, models
from resnet_jax.data import DataConfig, StreamingConfig, streaming
from resnet_jax.data.evaluation_views import plain_view
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.data.feed import even_batch_size
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.whole_images import group_by_shape, stored_shapes, whole_image
from resnet_jax.data.windows import rounded_shape
from resnet_jax.evaluation import (
  Evaluator,
  Protocol,
  make_passes,
  resolve,
  score_densely,
  score_split,
)

OWN = StreamingConfig(image_size=16, short_side_evaluation=20, decode_threads=1)
SIZE, CLASSES, DEVICES, BAD = 20, 3, 4, 13
MEAN = np.random.default_rng(5).uniform(100, 150, (16, 16, 3)).astype(np.float32)


class Pictures(ExampleSource):
  """Twenty arrays of several shapes, of which seven are of one; one record is no picture."""

  class_names = ("a", "b", "c")

  def __len__(self):
    return SIZE

  def read(self, i):
    if i == BAD:
      raise UndecodableError("made so")
    height, width = (24, 32) if i % 3 == 0 else (20 + i % 4, 44 - i % 4)
    pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
    return pixels, i % CLASSES

  def locate(self, i):
    return f"picture {i}"


@pytest.fixture(scope="module")
def dataset():
  parts = dict.fromkeys(("train", "validation"), (Pictures(), range(SIZE)))
  mean = Preprocessing((0.0, 0.0, 0.0), mean_image=MEAN)
  return streaming.build_dataset(DataConfig("made", streaming=OWN), 0, parts, mean, {})


class Computed:
  """`parallelize` that notes the batches that are computed, and the programs that are traced."""

  def __init__(self):
    self.examples = []
    self.programs = 0

  def __call__(self, function, **settings):
    def traced(*arguments):
      self.programs += 1
      return function(*arguments)

    mapped = devices.parallelize(traced, **settings)

    def call(*arguments):
      batch = arguments[settings["batch_argument"]]
      self.examples.append(int(np.prod(batch["real"].shape)))
      return mapped(*arguments)

    return call


def model_of(**fields):
  return models.ResNet((1,), width=2, num_classes=CLASSES, **fields)


def initial(model):
  init = jax.jit(model.init)
  return devices.replicate(init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))


def measured(dataset, protocol, batch_size):
  """What is computed, and how often a program is announced."""
  split, model = dataset.splits["validation"], model_of()
  variables = initial(model)
  passes = make_passes(resolve(protocol, dataset, split, OWN), split, OWN, model, batch_size)
  computed, announced = Computed(), []
  score_split(passes, variables, jax.random.key(0), computed, compiling=lambda: announced.append(1))
  assert len(announced) == computed.programs == sum(one.programs for one in passes)
  return computed


@pytest.mark.parametrize("quantum", [1, 8])
def test_dense_compiles_a_program_for_each_shape_and_fills_up_to_the_devices_alone(
  dataset, quantum
):
  shapes = [
    rounded_shape(*Pictures().read(i)[0].shape[:2], 17, quantum) for i in range(SIZE) if i != BAD
  ]
  counts = {shape: shapes.count(shape) for shape in set(shapes)}
  counts[max(counts, key=counts.get)] += 1  # The bad record.
  computed = measured(dataset, Protocol("dense", None, (17,), quantum), batch_size=100)
  assert computed.programs == len(counts)
  assert sum(computed.examples) == sum(-(-count // DEVICES) * DEVICES for count in counts.values())


def test_memory_bounds_a_batch_of_whole_images_and_each_shape_has_one_size_of_batch(dataset):
  # 16 views of 16 pixels are as many pixels as 6 images of 17x20, twice each.
  computed = measured(dataset, Protocol("dense", None, (17,), 1), batch_size=16)
  assert max(computed.examples) == 8  # The least multiple of four devices.
  groups = group_by_shape(
    stored_shapes(dataset.splits["validation"]), 17, 1, lambda height, width: 3
  )
  assert max(group.batch_size for group in groups) == 3
  assert sorted(np.concatenate([group.examples for group in groups]).tolist()) == list(range(SIZE))


@pytest.mark.parametrize("name", ["center", "ten_crop"])
@pytest.mark.parametrize(
  ("batch_size", "examples"), [(1000, [20]), (16, [12, 12]), (8, [8, 8, 8]), (1, [4] * 5)]
)
def test_crops_are_filled_up_by_less_than_the_devices_for_each_batch(
  dataset, name, batch_size, examples
):
  views = 10 if name == "ten_crop" else 1
  computed = measured(dataset, Protocol(name), batch_size * views)
  assert (computed.programs, computed.examples) == (1, examples)


def test_validation_is_filled_up_no_more(dataset):
  model, computed = model_of(), Computed()
  evaluator = Evaluator(model, dataset.splits["validation"], 16, jax.random.key(0), computed)
  evaluator(initial(model))
  assert computed.examples == [12, 12]


def test_an_even_batch_is_the_smallest_of_those_that_make_the_fewest():
  for examples in range(1, 40):
    for most in (1, 2.5, 7, 16, 100):
      for multiple in (1, 4):
        sizes = range(multiple, max(1, math.ceil(most / multiple)) * multiple + 1, multiple)
        expected = min(sizes, key=lambda size: (math.ceil(examples / size), size))
        assert even_batch_size(examples, most, multiple) == expected


def test_dense_scores_are_those_of_one_image_at_a_time(dataset, x64):
  quantum, sides = 8, (16, 21)
  model, split = model_of(dtype=jnp.float64), dataset.splits["validation"]
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
  variables["params"]["head"] = jax.tree.map(lambda leaf: leaf / 30, variables["params"]["head"])
  asked = resolve(Protocol("dense", None, sides, quantum), dataset, split, OWN)
  passes = make_passes(asked, split, OWN, model, batch_size=16)
  scores = score_split(passes, devices.replicate(variables), jax.random.key(0))

  one = jax.jit(
    lambda batch: score_densely(
      model, variables, plain_view({"mean": MEAN.mean((0, 1))}, batch, None)[0], 16
    )
  )
  spread = []
  for i in range(SIZE):
    if i == BAD:
      continue
    of_sides = []
    for side in sides:
      image = whole_image(Pictures().read(i)[0], side, quantum)
      logs = one({"image": image[None], "label": np.zeros(1, np.int32)})
      assert logs.dtype == np.float64
      of_sides.append(scipy.special.softmax(logs[0]))
    expected = np.mean(of_sides, 0)
    np.testing.assert_allclose(np.exp(scores.log_scores[i]), expected, rtol=1e-9, atol=0)
    spread.append(expected)
  assert np.ptp(spread, axis=0).min() > 1e-3  # Images of which one could pass for another.
  assert scores.weights.tolist() == [float(i != BAD) for i in range(SIZE)]


def test_records_that_are_no_images_are_of_one_shape():
  groups = group_by_shape(np.zeros((5, 2), int), 17, 1, lambda height, width: 100, 4)
  assert [(group.shape, group.batch_size) for group in groups] == [((17, 17), 8)]
