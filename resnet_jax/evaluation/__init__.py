"""How good a network is: metrics, test protocols, scores of a whole split, batch statistics."""

from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.accuracy import Evaluator, make_evaluation_step
from resnet_jax.evaluation.batch_statistics import batch_moments, combine_moments, measured
from resnet_jax.evaluation.protocols import Protocol, make_passes, resolve
from resnet_jax.evaluation.results import Outcomes, outcomes, wilson_interval
from resnet_jax.evaluation.scores import (
  Pass,
  Scores,
  mean_scores,
  score_densely,
  score_split,
  score_views,
)

__all__ = [
  "Evaluator",
  "Outcomes",
  "Pass",
  "Protocol",
  "Scores",
  "batch_moments",
  "combine_moments",
  "make_evaluation_step",
  "make_passes",
  "mean_scores",
  "measured",
  "metrics",
  "outcomes",
  "resolve",
  "score_densely",
  "score_split",
  "score_views",
  "wilson_interval",
]
