"""What scores say: errors and their interval, by class, and which class is taken for which."""

import dataclasses
import math
import statistics

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.evaluation.scores import Scores

# Examples whose scores are compared at a time.
_TOGETHER = 4096


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """What became of each example that could be read.

  Attributes:
    labels: (N,) int.
    predicted: (N,) int: the class of the largest score, the smaller of equal ones.
    ranks: (N,) int: how many classes come before the label, 0 where it is predicted.
    losses: (N,) float64: minus the logarithm of the label's score.
    classes: Number of classes.
    unreadable: How many other examples the split has.
  """

  labels: np.ndarray
  predicted: np.ndarray
  ranks: np.ndarray
  losses: np.ndarray
  classes: int
  unreadable: int

  @property
  def examples(self) -> int:
    """How many are counted."""
    return len(self.labels)

  def errors(self, k: int) -> int:
    """For how many examples the label is not among the k largest scores."""
    return int((self.ranks >= k).sum())

  def metrics(self) -> dict[str, float]:
    """`loss`, `accuracy`, `top5_accuracy`, `examples`, and `unreadable` if there are."""
    unreadable = {"unreadable": self.unreadable} if self.unreadable else {}
    return {
      "loss": math.fsum(self.losses) / self.examples,
      "accuracy": (self.examples - self.errors(1)) / self.examples,
      "top5_accuracy": (self.examples - self.errors(5)) / self.examples,
      "examples": self.examples,
      **unreadable,
    }

  def confusion(self) -> np.ndarray:
    """(classes, classes) int64: how many examples of each label (row) were taken for which."""
    matrix = np.zeros((self.classes, self.classes), np.int64)
    np.add.at(matrix, (self.labels, self.predicted), 1)
    return matrix

  def of_class(self, label: int) -> "Outcomes":
    """Those of one class, without the unreadable."""
    kept = self.labels == label
    return Outcomes(
      self.labels[kept], self.predicted[kept], self.ranks[kept], self.losses[kept], self.classes, 0
    )


def outcomes(scores: Scores) -> Outcomes:
  """Compares every example's scores to its label.

  Of equal scores that of the smaller class comes first, as in `metrics.in_top_k`.

  Raises:
    UserError: No example could be read.
  """
  readable = np.flatnonzero(scores.weights > 0)
  if not len(readable):
    raise UserError(f"none of the {len(scores.weights)} examples could be read")
  labels = scores.labels[readable]
  predicted, ranks = np.empty(len(readable), int), np.empty(len(readable), int)
  losses = np.empty(len(readable))
  for start in range(0, len(readable), _TOGETHER):
    part = slice(start, start + _TOGETHER)
    found, label = scores.log_scores[readable[part]], labels[part, None]
    own = np.take_along_axis(found, label, axis=1)
    earlier = np.arange(found.shape[1]) < label
    ranks[part] = ((found > own) | ((found == own) & earlier)).sum(1)
    predicted[part], losses[part] = found.argmax(1), -own[:, 0]
  classes = scores.log_scores.shape[1]
  return Outcomes(labels, predicted, ranks, losses, classes, len(scores.weights) - len(readable))


def wilson_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
  """Wilson's score interval of a share (1927, J. Am. Stat. Assoc. 22, equation 4).

  Args:
    count: Of how many of the trials something is so.
    total: Number of trials, at least 1.
    confidence: How often such intervals hold the true share.

  Returns:
    The least and the largest share, within [0, 1].
  """
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  share, spread = count / total, z * z / total
  middle = share + spread / 2
  half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
  # At the ends the interval ends too; rounding would put it a little beside them.
  low = 0.0 if count == 0 else (middle - half) / (1 + spread)
  high = 1.0 if count == total else (middle + half) / (1 + spread)
  return low, high
