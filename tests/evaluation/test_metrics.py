"""Loss and accuracy of logits against numpy, scipy and a stable sort."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from resnet_jax.evaluation import metrics

CLASSES = 7


def batch(examples=40, seed=0):
  """Logits with many ties, labels, and weights of 0 and 1."""
  generator = np.random.default_rng(seed)
  logits = generator.integers(-2, 3, (examples, CLASSES)).astype(np.float32)
  labels = generator.integers(0, CLASSES, examples)
  weights = generator.integers(0, 2, examples).astype(np.float32)
  return logits, labels, weights


def exact_cross_entropy(logits, labels):
  log_probabilities = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
  return -log_probabilities[np.arange(len(labels)), labels]


def ranked(logits, labels, k):
  """Whether a label is among the first k of a stable sort, largest first."""
  first = np.argsort(-np.asarray(logits, np.float64), axis=1, kind="stable")[:, :k]
  return (first == np.asarray(labels)[:, None]).any(1)


@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_cross_entropy_is_the_negative_log_likelihood(scale):
  generator = np.random.default_rng(0)
  logits = (scale * generator.normal(size=(50, CLASSES))).astype(np.float32)
  labels = generator.integers(0, CLASSES, 50)
  actual = metrics.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
  assert actual.dtype == np.float32
  np.testing.assert_allclose(
    actual, exact_cross_entropy(logits, labels), rtol=2e-6, atol=1e-6 * scale
  )


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
  logits, labels, _ = batch()
  logits = jnp.asarray(logits, jnp.bfloat16)
  actual = metrics.cross_entropy(logits, jnp.asarray(labels))
  assert actual.dtype == np.float32
  np.testing.assert_allclose(actual, exact_cross_entropy(logits, labels), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_float64_logits_stays_float64(x64):
  logits, labels, _ = batch()
  actual = metrics.cross_entropy(jnp.asarray(logits, "float64"), jnp.asarray(labels))
  assert actual.dtype == np.float64
  np.testing.assert_allclose(actual, exact_cross_entropy(logits, labels), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 5, CLASSES, CLASSES + 3])
def test_in_top_k_is_a_stable_sort_with_ties_to_the_smaller_class(k):
  logits, labels, _ = batch(400)
  expected = ranked(logits, labels, k)
  assert k >= CLASSES or 0 < expected.sum() < len(expected)
  actual = metrics.in_top_k(jnp.asarray(logits), jnp.asarray(labels), k)
  assert actual.dtype == bool
  np.testing.assert_array_equal(actual, expected)


def test_in_top_1_is_argmax():
  logits, labels, _ = batch(400)
  actual = metrics.in_top_k(jnp.asarray(logits), jnp.asarray(labels), 1)
  np.testing.assert_array_equal(actual, logits.argmax(1) == labels)


def test_constant_logits_are_right_for_the_first_k_classes_only():
  labels = jnp.arange(CLASSES)
  actual = metrics.in_top_k(jnp.zeros((CLASSES, CLASSES)), labels, 3)
  np.testing.assert_array_equal(actual, np.arange(CLASSES) < 3)


@pytest.mark.parametrize("k", [1, 5, CLASSES + 1])
def test_a_label_whose_logit_is_nan_is_never_correct(k):
  one = jnp.zeros((CLASSES, CLASSES)).at[jnp.arange(CLASSES), jnp.arange(CLASSES)].set(jnp.nan)
  for logits in (one, jnp.full((CLASSES, CLASSES), jnp.nan)):
    assert not metrics.in_top_k(logits, jnp.arange(CLASSES), k).any()


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_an_example_of_weight_0_contributes_nothing_whatever_its_logits(nothing):
  logits, labels, weights = batch()
  assert 0 < weights.sum() < len(weights)
  kept = weights > 0
  logits[~kept] = nothing
  sums = metrics.metric_sums(*map(jnp.asarray, (logits, labels, weights)))
  alone = metrics.metric_sums(*map(jnp.asarray, (logits[kept], labels[kept], weights[kept])))
  chex.assert_trees_all_close(sums, alone, rtol=1e-6)
  assert sums.weight == kept.sum()


def test_sums_weigh_each_example_by_its_weight():
  logits, labels, _ = batch()
  weights = np.random.default_rng(1).uniform(0.5, 2, len(labels)).astype(np.float32)
  sums = metrics.metric_sums(*map(jnp.asarray, (logits, labels, weights)))
  expected = metrics.MetricSums(
    loss=weights @ exact_cross_entropy(logits, labels),
    top1=weights @ ranked(logits, labels, 1),
    top5=weights @ ranked(logits, labels, 5),
    weight=weights.sum(),
  )
  chex.assert_trees_all_close(sums, expected, rtol=1e-6)


def test_sums_of_parts_add_up_to_those_of_the_whole():
  logits, labels, weights = map(jnp.asarray, batch())
  whole = metrics.metric_sums(logits, labels, weights)
  parts = [
    metrics.metric_sums(logits[part], labels[part], weights[part])
    for part in (slice(0, 11), slice(11, None))
  ]
  chex.assert_trees_all_close(jax.tree.map(jnp.add, *parts), whole, rtol=1e-6)


def test_summary_is_the_means_and_the_number_of_examples():
  sums = metrics.MetricSums(*map(np.float32, (30, 5, 15, 20)))
  assert metrics.summarize(sums) == {
    "loss": 1.5,
    "accuracy": 0.25,
    "top5_accuracy": 0.75,
    "examples": 20,
  }


def test_arrays_of_other_ranks_are_refused():
  with pytest.raises(AssertionError):
    metrics.cross_entropy(jnp.zeros((2, 3, 4)), jnp.zeros(2, int))
  with pytest.raises(AssertionError):
    metrics.in_top_k(jnp.zeros((2, 3)), jnp.zeros((2, 1), int), 1)


class TransformedTest(chex.TestCase):
  """The sums of one batch, transformed every way, against float64."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_metric_sums_are_exact_under_every_transformation(self):
    logits, labels, weights = batch()
    sums = self.variant(metrics.metric_sums)(logits, labels, weights)
    kept = weights > 0
    expected = metrics.MetricSums(
      loss=exact_cross_entropy(logits, labels)[kept].sum(),
      top1=ranked(logits, labels, 1)[kept].sum(),
      top5=ranked(logits, labels, 5)[kept].sum(),
      weight=kept.sum(),
    )
    chex.assert_trees_all_close(sums, expected, rtol=1e-6)
