"""Protocols, tried on made pictures, against NumPy by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.special
from flax import linen as nn

from resnet_jax import devices, models
from resnet_jax.data import DataConfig, StreamingConfig, open_dataset, streaming
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.whole_images import group_by_shape, stored_shapes, whole_image_batches
from resnet_jax.errors import UserError
from resnet_jax.evaluation import (
  Evaluator,
  Pass,
  Protocol,
  Scores,
  make_passes,
  mean_scores,
  outcomes,
  resolve,
  score_split,
)

OWN = StreamingConfig(image_size=16, short_side_evaluation=20, decode_threads=1)
MEAN = np.random.default_rng(5).uniform(100, 150, (16, 16, 3)).astype(np.float32)
CLASSES = 3
BAD = 5


class Pictures(ExampleSource):
  """Eleven arrays of four shapes; one record is no picture."""

  class_names = ("a", "b", "c")

  def __len__(self):
    return 11

  def read(self, i):
    if i == BAD:
      raise UndecodableError("made so")
    height, width = ((24, 36), (30, 24), (24, 47), (25, 25))[i % 4]
    generator = np.random.default_rng(i)
    return generator.integers(0, 256, (height, width, 3), np.uint8), i % CLASSES

  def locate(self, i):
    return f"picture {i}"


class Linear(nn.Module):
  """A network of views of 16 pixels whose logits numpy computes in one line."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(CLASSES)(images.reshape(len(images), -1))


def small_resnet(**fields):
  return models.ResNet((1, 1), width=4, num_classes=CLASSES, **fields)


def initial(model):
  """With logits of a few units, as a trained network has them."""
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  variables["params"]["head"] = jax.tree.map(lambda leaf: leaf / 30, variables["params"]["head"])
  return devices.replicate(variables)


@pytest.fixture(scope="module")
def dataset():
  return open_made(OWN)


def scores_of(dataset, protocol, model, variables, batch_size=8):
  split = dataset.splits["validation"]
  protocol = resolve(protocol, dataset, split, OWN)
  passes = make_passes(protocol, split, OWN, model, batch_size)
  return score_split(passes, variables, jax.random.key(0))


def resized(i, short_side):
  """A picture as Pillow resizes the whole of it."""
  pixels = Pictures().read(i)[0]
  scale = short_side / min(pixels.shape[:2])
  height, width = (int(np.floor(side * scale + 0.5)) for side in pixels.shape[:2])
  image = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR)
  return np.asarray(image, np.float64)


def softmax(logits):
  return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


READABLE = [i for i in range(11) if i != BAD]


def linear_variables():
  kernel = np.random.default_rng(1).normal(0, 0.002, (16 * 16 * 3, CLASSES)).astype(np.float32)
  return {"params": {"Dense_0": {"kernel": kernel, "bias": np.arange(3, dtype=np.float32) / 9}}}


def crops_by_hand(i, short_side, crop):
  """Top left, top right, bottom left, bottom right, centre."""
  image = resized(i, short_side)
  bottom, right = image.shape[0] - crop, image.shape[1] - crop
  corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
  return [image[top : top + crop, left : left + crop] for top, left in corners]


def test_ten_crop_is_the_mean_softmax_of_five_crops_and_their_mirror_images(dataset):
  variables = linear_variables()
  layer = variables["params"]["Dense_0"]
  scores = scores_of(dataset, Protocol("ten_crop"), Linear(), devices.replicate(variables))
  for i in READABLE:
    views = [v for crop in crops_by_hand(i, 20, 16) for v in (crop, crop[:, ::-1])]
    logits = [(view - MEAN).ravel() @ layer["kernel"] + layer["bias"] for view in views]
    # A grey level between resizing a window and the whole.
    np.testing.assert_allclose(
      np.exp(scores.log_scores[i]), softmax(logits).mean(0), atol=2e-2, err_msg=str(i)
    )
  np.testing.assert_allclose(np.exp(scores.log_scores[READABLE]).sum(1), 1, rtol=1e-6)


def test_ten_crop_averages_scores_exactly(dataset):
  variables = linear_variables()
  layer = variables["params"]["Dense_0"]
  split = dataset.splits["validation"]
  (one,) = make_passes(
    resolve(Protocol("ten_crop"), dataset, split, OWN), split, OWN, Linear(), 1000
  )
  (batch,) = one.batches()
  scores = score_split([one], devices.replicate(variables), jax.random.key(0))
  for row, i in enumerate(batch["example"][:11]):
    five = batch["image"][row].astype(np.float64)
    views = np.concatenate([five, five[:, :, ::-1]]) - MEAN
    expected = softmax(views.reshape(10, -1) @ layer["kernel"] + layer["bias"]).mean(0)
    if i != BAD:
      np.testing.assert_allclose(np.exp(scores.log_scores[i]), expected, rtol=2e-5)


@pytest.mark.parametrize(("crop", "short_side"), [(None, None), (12, 16), (24, 24)])
def test_center_is_the_crop_of_the_sizes_asked_for(dataset, crop, short_side):
  model = small_resnet()
  variables = initial(model)
  sides = short_side and (short_side,)
  scores = scores_of(dataset, Protocol("center", crop, sides), model, variables)
  crop, short_side = crop or 16, short_side or 20
  views = np.stack([crops_by_hand(i, short_side, crop)[4] for i in READABLE])
  # A mean image is subtracted from views of its size alone, else its colour.
  views -= MEAN if crop == 16 else MEAN.mean((0, 1))
  logits = jax.jit(model.apply)(variables, jnp.asarray(views, jnp.float32))
  expected = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(scores.log_scores[READABLE], expected, atol=0.05)


def test_center_counts_what_training_counts(dataset):
  model, split = small_resnet(), dataset.splits["validation"]
  variables = initial(model)
  trained = Evaluator(model, split, 8, jax.random.key(0))(variables)
  found = outcomes(scores_of(dataset, Protocol(), model, variables)).metrics()
  assert found == pytest.approx(trained, rel=1e-5)
  assert (found["examples"], found["unreadable"]) == (10, 1)


@pytest.mark.parametrize("protocol", ["center", "ten_crop", "dense"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_every_example_counts_once_on_four_devices_whatever_the_batch_size(
  dataset, protocol, batch_size
):
  sides = (16, 24) if protocol == "dense" else None
  model = models.ResNet((1,), width=2, num_classes=CLASSES)
  asked = Protocol(protocol, None, sides)
  advanced = []
  split = dataset.splits["validation"]
  passes = make_passes(resolve(asked, dataset, split, OWN), split, OWN, model, batch_size)
  scores = score_split(passes, initial(model), jax.random.key(0), advance=advanced.append)
  assert sum(advanced) == len(passes) * 11
  found = outcomes(scores)
  assert (found.examples, found.unreadable) == (10, 1)
  assert found.labels.tolist() == [i % CLASSES for i in READABLE]


def test_scores_do_not_depend_on_the_batch_size(dataset):
  model = models.ResNet((1,), width=2, num_classes=CLASSES)
  variables = initial(model)
  for protocol in (Protocol(), Protocol("ten_crop"), Protocol("dense", None, (20,), 4)):
    one, other = (scores_of(dataset, protocol, model, variables, size) for size in (4, 40))
    np.testing.assert_allclose(
      one.log_scores[READABLE], other.log_scores[READABLE], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("drop", [slice(0, 2), slice(1, None)])
def test_a_lost_batch_is_an_error_and_no_accuracy(dataset, drop):
  split = dataset.splits["validation"]
  (one,) = make_passes(resolve(Protocol(), dataset, split, OWN), split, OWN, Linear(), 4)
  lossy = Pass(
    one.name, one.size, lambda: iter(list(one.batches())[drop]), *(one.constants, one.view),
    one.score,
  )  # fmt: skip
  with pytest.raises(RuntimeError, match="of 11 examples of validation"):
    score_split([lossy], devices.replicate(linear_variables()), jax.random.key(0))


def test_dense_of_one_exact_size_is_by_hand_the_mean_over_windows_of_the_map(dataset):
  model = small_resnet()
  variables = initial(model)
  asked = Protocol("dense", None, (16, 23), 1)
  scores = scores_of(dataset, asked, model, variables)
  head = variables["params"]["head"]
  apply = jax.jit(lambda images: model.apply(variables, images, return_features=True))
  for i in READABLE[:4]:  # One of each shape.
    expected = []
    for short_side in (16, 23):
      image = resized(i, short_side) - MEAN.mean((0, 1), dtype=np.float64)
      per_image = []
      for view in (image, image[:, ::-1]):
        _, features = apply(jnp.asarray(view[None], jnp.float32))
        last = np.asarray(features["stage2"][0], np.float64)
        # 16 pixels are 2x2 of this map.
        windows = [
          last[row : row + 2, column : column + 2].mean((0, 1))
          for row in range(last.shape[0] - 1)
          for column in range(last.shape[1] - 1)
        ]
        per_image.append(softmax(windows @ np.asarray(head["kernel"]) + head["bias"]).mean(0))
      expected.append(np.mean(per_image, 0))
    np.testing.assert_allclose(np.exp(scores.log_scores[i]), np.mean(expected, 0), rtol=1e-4)


def test_whole_images_come_once_in_few_shapes_with_equal_shapes_together(dataset):
  split = dataset.splits["validation"]
  groups = group_by_shape(stored_shapes(split), 20, 8, lambda height, width: 2)
  batches = list(whole_image_batches(split, groups))
  shapes = [batch["image"].shape for batch in batches]
  assert set(shapes) == {(2, *shape, 3) for shape in ((20, 32), (24, 20), (20, 40), (20, 24))}
  real = np.concatenate([batch["example"][batch["real"] > 0] for batch in batches])
  assert sorted(real.tolist()) == list(range(11))


@pytest.mark.parametrize("quantum", [1, 4, 32])
def test_a_quantum_leaves_the_short_side_and_the_order_of_the_sides(quantum):
  from resnet_jax.data.windows import resized_shape, rounded_shape

  generator = np.random.default_rng(0)
  for height, width in generator.integers(20, 900, (200, 2)).tolist():
    exact = resized_shape(height, width, 225)
    rounded = rounded_shape(height, width, 225, quantum)
    assert min(rounded) == 225
    assert rounded == exact if quantum == 1 else abs(sum(rounded) - sum(exact)) <= quantum / 2
    assert rounded == (225, 225) or (rounded[0] <= rounded[1]) == (height <= width)
    assert max(rounded) % quantum == 0 or max(rounded) == 225


@pytest.mark.parametrize(
  ("protocol", "words"),
  [
    (Protocol("dense"), "give --short-sides"),
    (Protocol("dense", None, (15, 30)), "16 pixels does not fit a short side of 15"),
    (Protocol("center", 24), "24 pixels does not fit a short side of 20"),
    (Protocol("center", None, (20, 24)), "give --short-side"),
    (Protocol("ten_crop", None, None, 32), "--quantum belong to --protocol dense"),
  ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(dataset, protocol, words):
  with pytest.raises(UserError, match=words):
    resolve(protocol, dataset, dataset.splits["validation"], OWN)


@pytest.mark.parametrize(
  "protocol",
  [Protocol("ten_crop"), Protocol("dense"), Protocol("center", 7), Protocol("center", None, (9,))],
)
def test_images_of_one_small_size_have_the_single_view_alone(protocol):
  digits = open_dataset(DataConfig("digits"), 0)
  with pytest.raises(UserError, match=r"digits are 8x8 pixels .* leave out --protocol"):
    resolve(protocol, digits, digits.splits["test"], OWN)
  assert resolve(Protocol(), digits, digits.splits["test"], OWN) == Protocol()


def test_dense_has_the_paper_s_scales_for_its_views():
  dataset = open_made(StreamingConfig(decode_threads=1))
  split, own = dataset.splits["validation"], StreamingConfig()
  found = resolve(Protocol("dense"), dataset, split, own)
  assert found == Protocol("dense", 224, (224, 256, 384, 480, 640), 32)


def open_made(settings):
  parts = dict.fromkeys(("train", "validation"), (Pictures(), range(11)))
  mean = Preprocessing((0.0, 0.0, 0.0), mean_image=MEAN)
  return streaming.build_dataset(DataConfig("made", streaming=settings), 0, parts, mean, {})


def made_scores(probabilities, labels):
  logs = np.log(np.asarray(probabilities, np.float64))
  return Scores(logs, np.asarray(labels, np.int32), np.ones(len(labels), np.float32))


def test_an_ensemble_s_scores_are_the_mean_of_its_members_softmax():
  generator = np.random.default_rng(0)
  members = [generator.dirichlet(np.ones(4), 6) for _ in range(3)]
  labels = generator.integers(0, 4, 6)
  found = mean_scores(made_scores(member, labels) for member in members)
  np.testing.assert_allclose(np.exp(found.log_scores), np.mean(members, 0), rtol=1e-12)
  assert outcomes(found).predicted.tolist() == np.mean(members, 0).argmax(1).tolist()


def test_an_ensemble_of_other_examples_is_refused():
  scores = np.full((2, 2), 0.5)
  with pytest.raises(UserError, match="other examples or classes"):
    mean_scores([made_scores(scores, [0, 1]), made_scores(scores, [1, 1])])
  with pytest.raises(UserError, match="other examples or classes"):
    mean_scores([made_scores(scores, [0, 1]), made_scores(np.full((2, 3), 1 / 3), [0, 1])])


def test_outputs_that_are_not_finite_are_an_error_and_no_accuracy(dataset):
  variables = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), linear_variables())
  with pytest.raises(UserError, match="not finite"):
    scores_of(dataset, Protocol(), Linear(), devices.replicate(variables))
