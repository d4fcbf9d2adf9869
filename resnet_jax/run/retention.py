"""Which checkpoints are kept: the latest, and those of the best validation metric."""

from collections.abc import Mapping


def score(metrics: Mapping[str, float] | None, metric: str) -> float | None:
  """How good a checkpoint is by a metric, higher being better; None if it was not measured."""
  if metrics is None or metric not in metrics:
    return None
  return -metrics[metric] if metric.endswith("loss") else metrics[metric]


def best_first(scores: Mapping[int, float | None]) -> list[int]:
  """The steps that have a score, the best first; of equals the later."""
  scored = [(value, step) for step, value in scores.items() if value is not None]
  return [step for _, step in sorted(scored, reverse=True)]


def kept(scores: Mapping[int, float | None], keep: int, keep_best: int) -> set[int]:
  """The steps that stay: the `keep` latest and the `keep_best` best.

  Args:
    scores: Of every step that there is; None where there is no metric.
    keep: At least 1, so that the newest always stays.
    keep_best: May be 0.
  """
  return set(sorted(scores)[-keep:]) | set(best_first(scores)[:keep_best])
