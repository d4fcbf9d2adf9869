"""What scores say, against scipy and loops."""

import numpy as np
import pytest
import scipy.stats

from resnet_jax.errors import UserError
from resnet_jax.evaluation import Scores, outcomes, wilson_interval
from resnet_jax.evaluation.metrics import in_top_k

CLASSES, SIZE = 7, 5000  # More than are compared at a time.


@pytest.fixture(scope="module")
def scores():
  """With many ties, and some examples that could not be read."""
  generator = np.random.default_rng(0)
  logits = generator.integers(-3, 4, (SIZE, CLASSES)).astype(np.float64)
  logits -= np.log(np.exp(logits).sum(1, keepdims=True))
  labels = generator.integers(0, CLASSES - 1, SIZE).astype(np.int32)
  weights = (generator.uniform(size=SIZE) > 0.1).astype(np.float32)
  return Scores(logits, labels, weights)


@pytest.mark.parametrize(
  ("count", "total"), [(0, 1), (1, 1), (0, 180), (5, 180), (827, 10_000), (9_999, 10_000)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_interval_is_wilson_s(count, total, confidence):
  expected = scipy.stats.binomtest(count, total).proportion_ci(confidence, "wilson")
  found = wilson_interval(count, total, confidence)
  np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-9, atol=1e-12)
  assert 0 <= found[0] <= count / total <= found[1] <= 1


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_errors_are_the_labels_not_among_the_first_k_and_ties_go_to_the_smaller_class(scores, k):
  kept = scores.weights > 0
  right = in_top_k(scores.log_scores[kept], scores.labels[kept], k)
  assert outcomes(scores).errors(k) == kept.sum() - int(right.sum())


def test_metrics_are_means_over_what_could_be_read(scores):
  kept = scores.weights > 0
  found = outcomes(scores)
  losses = -scores.log_scores[np.arange(SIZE), scores.labels][kept]
  assert found.metrics() == {
    "loss": pytest.approx(losses.mean()),
    "accuracy": pytest.approx(1 - found.errors(1) / kept.sum()),
    "top5_accuracy": pytest.approx(1 - found.errors(5) / kept.sum()),
    "examples": kept.sum(),
    "unreadable": SIZE - kept.sum(),
  }


def test_the_diagonal_of_the_confusion_is_what_is_right(scores):
  found = outcomes(scores)
  matrix = found.confusion()
  assert matrix.shape == (CLASSES, CLASSES) and matrix.sum() == found.examples
  assert np.trace(matrix) == found.examples - found.errors(1)
  kept = scores.weights > 0
  np.testing.assert_array_equal(matrix.sum(1), np.bincount(scores.labels[kept], minlength=CLASSES))


def test_the_classes_add_up_to_the_whole(scores):
  found = outcomes(scores)
  parts = [found.of_class(label) for label in range(CLASSES)]
  assert parts[-1].examples == 0  # No example is of the last class.
  for k in (1, 5):
    assert sum(part.errors(k) for part in parts) == found.errors(k)
  assert sum(part.examples for part in parts) == found.examples


def test_a_split_of_which_nothing_can_be_read_is_an_error():
  with pytest.raises(UserError, match="none of the 2 examples"):
    outcomes(Scores(np.zeros((2, 3)), np.zeros(2, np.int32), np.zeros(2, np.float32)))
