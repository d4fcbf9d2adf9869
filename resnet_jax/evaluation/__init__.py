"""Metrics, and accuracy over a whole split."""

from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.accuracy import Evaluator, make_evaluation_step

__all__ = ["Evaluator", "make_evaluation_step", "metrics"]
