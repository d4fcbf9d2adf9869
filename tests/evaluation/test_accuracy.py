"""Evaluation of a whole split on four devices against a loop over single examples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax import devices
from resnet_jax.data import Split, positions
from resnet_jax.evaluation import Evaluator, accuracy, make_evaluation_step

CLASSES, SHAPE = 7, (2, 3, 1)
SIZE = 37  # Divided by no batch size and no number of devices below.


class Linear(nn.Module):
  """A network whose logits numpy computes in one line."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(CLASSES)(images.reshape(len(images), -1))


def table(size=SIZE):
  generator = np.random.default_rng(0)
  images = generator.normal(size=(size, *SHAPE)).astype(np.float32)
  return images, generator.integers(0, CLASSES, size).astype(np.int32)


def table_view(constants, batch, key):
  del key
  return constants["images"][batch["example"]], constants["labels"][batch["example"]]


def table_split(size=SIZE, fetch=positions, view=table_view):
  images, labels = table(size)
  return Split("validation", size, {"images": images, "labels": labels}, fetch, view)


def linear_variables():
  generator = np.random.default_rng(1)
  return {
    "params": {
      "Dense_0": {
        "kernel": generator.normal(size=(np.prod(SHAPE), CLASSES)).astype(np.float32),
        "bias": generator.normal(size=CLASSES).astype(np.float32),
      }
    }
  }


def evaluate(split, batch_size, variables=None):
  evaluator = Evaluator(Linear(), split, batch_size, jax.random.key(0))
  return evaluator(devices.replicate(variables or linear_variables()))


def loop_over_examples(examples):
  """Loss, top-1 and top-5 accuracy in float64, one example at a time."""
  images, labels = table()
  dense = linear_variables()["params"]["Dense_0"]
  losses, top1, top5 = [], [], []
  for example in examples:
    logits = images[example].astype(np.float64).ravel() @ dense["kernel"] + dense["bias"]
    losses.append(np.log(np.exp(logits).sum()) - logits[labels[example]])
    order = np.argsort(-logits)
    top1.append(labels[example] in order[:1])
    top5.append(labels[example] in order[:5])
  return {"loss": np.mean(losses), "accuracy": np.mean(top1), "top5_accuracy": np.mean(top5)}


def test_four_devices_evaluate():
  assert jax.device_count() == 4


@pytest.mark.parametrize("batch_size", [1, 5, 16, 36, SIZE, 500])
def test_every_example_counts_once_whatever_the_batch_size(batch_size):
  expected = loop_over_examples(range(SIZE))
  assert 0 < expected["accuracy"] < expected["top5_accuracy"] < 1
  result = evaluate(table_split(), batch_size)
  assert result.pop("examples") == SIZE
  assert result == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1, 3, 4, 32, 33])
def test_splits_of_every_size_are_counted_whole(size):
  result = evaluate(table_split(size), batch_size=8)
  assert result["examples"] == size
  assert "unreadable" not in result


def test_each_example_is_fetched_once_and_in_order():
  fetched = []

  def fetch(epochs, examples):
    fetched.extend(examples.tolist())
    return positions(epochs, examples)

  evaluate(table_split(fetch=fetch), batch_size=16)
  assert fetched == list(range(SIZE))


def test_unreadable_examples_are_reported_and_count_neither_way():
  unreadable = [0, 3, 20, 36]

  def fetch(epochs, examples):
    batch = positions(epochs, examples)
    batch["weight"][np.isin(examples, unreadable)] = 0
    return batch

  def view(constants, batch, key):
    images, labels = table_view(constants, batch, key)
    return jnp.where(batch["weight"][:, None, None, None] > 0, images, jnp.nan), labels

  result = evaluate(table_split(fetch=fetch, view=view), batch_size=16)
  assert result.pop("unreadable") == len(unreadable)
  assert result.pop("examples") == SIZE - len(unreadable)
  expected = loop_over_examples(sorted(set(range(SIZE)) - set(unreadable)))
  assert result == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kept", [slice(0, 2), slice(1, None)])
def test_a_lost_batch_is_an_error_and_no_accuracy(monkeypatch, kept):
  batches = accuracy.evaluation_batches
  monkeypatch.setattr(
    accuracy, "evaluation_batches", lambda *arguments: iter(list(batches(*arguments))[kept])
  )
  with pytest.raises(RuntimeError, match="of 37 examples of validation"):
    evaluate(table_split(), batch_size=16)


def test_a_batch_seen_twice_is_an_error(monkeypatch):
  batches = accuracy.evaluation_batches
  monkeypatch.setattr(
    accuracy, "evaluation_batches", lambda *arguments: iter(2 * list(batches(*arguments)))
  )
  with pytest.raises(RuntimeError, match="saw 74 of 37"):
    evaluate(table_split(), batch_size=16)


def test_nan_in_a_counted_example_shows_in_the_loss_and_is_not_right():
  variables = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), linear_variables())
  result = evaluate(table_split(), 16, variables)
  assert np.isnan(result["loss"])
  assert result["accuracy"] == result["top5_accuracy"] == 0


def test_the_evaluator_compiles_once_for_all_batches_and_variables():
  view = chex.assert_max_traces(table_view, n=1)
  evaluator = Evaluator(Linear(), table_split(view=view), 16, jax.random.key(0))
  variables = linear_variables()
  evaluator(devices.replicate(variables))
  evaluator(devices.replicate(jax.tree.map(np.zeros_like, variables)))


class StepTest(chex.TestCase):
  """The pure function that measures one batch, transformed every way."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_the_step_measures_one_batch_wherever_it_runs(self):
    examples = np.arange(5, 17)
    batch = positions(np.zeros_like(examples), examples)
    batch["real"] = np.ones(len(examples), np.float32)
    step = self.variant(make_evaluation_step(table_view, Linear()))
    images, labels = table()
    constants = {"images": images, "labels": labels}
    sums, real = step(linear_variables(), constants, batch, jax.random.key(0))
    expected = loop_over_examples(examples)
    assert real == sums.weight == len(examples)
    assert sums.loss / len(examples) == pytest.approx(expected["loss"], rel=1e-6)
    assert sums.top1 == pytest.approx(expected["accuracy"] * len(examples))
    assert sums.top5 == pytest.approx(expected["top5_accuracy"] * len(examples))
