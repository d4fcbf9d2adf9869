"""Which checkpoints stay."""

import pytest

from resnet_jax.run import retention


@pytest.mark.parametrize(
  ("scores", "keep", "keep_best", "kept"),
  [
    ({}, 2, 1, set()),
    ({1: None, 2: None, 3: None}, 2, 1, {2, 3}),
    ({1: 0.9, 2: 0.1, 3: 0.2, 4: None}, 1, 1, {1, 4}),
    ({1: 0.9, 2: 0.8, 3: 0.2, 4: None}, 1, 2, {1, 2, 4}),
    ({1: 0.9, 2: 0.9, 3: 0.1}, 1, 1, {2, 3}),
    ({1: 0.9, 2: 0.1, 3: 0.2}, 1, 0, {3}),
    ({1: 0.1, 10: 0.2, 9: 0.3}, 2, 1, {9, 10}),
  ],
)
def test_the_latest_and_the_best_are_kept(scores, keep, keep_best, kept):
  assert retention.kept(scores, keep, keep_best) == kept


def test_a_loss_is_better_when_lower_and_what_was_not_measured_has_no_score():
  metrics = {"accuracy": 0.5, "ema_loss": 2.0}
  assert retention.score(metrics, "accuracy") == 0.5
  assert retention.score(metrics, "ema_loss") == -2.0
  assert retention.score(metrics, "loss") is None
  assert retention.score(None, "accuracy") is None
