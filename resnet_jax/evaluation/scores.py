"""Scores of every example of a split: softmax outputs, averaged over views, scales and networks.

Scores are kept as logarithms, with which the mean of several is as exact as that of one.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from resnet_jax import devices
from resnet_jax.data.dataset import Batch, View
from resnet_jax.data.feed import prefetch
from resnet_jax.errors import UserError
from resnet_jax.models import Network, logits_of_windows


@dataclasses.dataclass(frozen=True)
class Pass:
  """One way through a split, which sees every example once.

  Attributes:
    name: Of the split.
    size: Number of its examples.
    batches: The batches on the host, each with `example`, `weight`, `real` and what the view needs.
      Batches may differ in shape.
    constants: Arrays that the view reads.
    view: What the network is shown.
    score: `score(variables, images)`, pure -> (N, classes): the logarithms of the scores, up to a
      constant of each example's own.
    programs: Number of shapes of batches; a program is compiled for each.
  """

  name: str
  size: int
  batches: Callable[[], Iterator[Batch]]
  constants: Any
  view: View
  score: Callable[[Any, jax.Array], jax.Array]
  programs: int = 1


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of all examples of a split, in its order.

  Attributes:
    log_scores: (N, classes) float64: log of the mean softmax; arbitrary where the weight is 0.
    labels: (N,) int32.
    weights: (N,) float32: 0 for examples that could not be read, 1 for all others.
  """

  log_scores: np.ndarray
  labels: np.ndarray
  weights: np.ndarray


def score_views(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
  """Scores by one or several views of the network's own size.

  Args:
    model: A Linen module; called with `train=False` it gives logits.
    variables: Its variables.
    images: (N, H, W, C), or (N, views, H, W, C), whose softmax scores are averaged.

  Returns:
    (N, classes): logits of the one view, or the logarithm of the mean score.
  """
  if images.ndim == 4:
    return model.apply(variables, images, train=False)  # type: ignore[return-value]
  examples, views = images.shape[:2]
  logits: Any = model.apply(variables, images.reshape(-1, *images.shape[2:]), train=False)
  return _log_mean_softmax(logits.reshape(examples, views, -1))


def score_densely(model: Network, variables: Any, images: jax.Array, view: int) -> jax.Array:
  """Scores by all windows of an image and of its mirror image (paper, section 3.4).

  Args:
    model: A network with a classifier.
    variables: Its variables.
    images: (N, H, W, C), of any size from `view` on.
    view: Height and width in pixels that the classifier sees; see `models.logits_of_windows`.

  Returns:
    (N, classes): the logarithm of the mean softmax over all places and both images.
  """
  both = jax.numpy.stack([images, images[:, :, ::-1]], axis=1)
  logits = logits_of_windows(model, variables, both.reshape(-1, *images.shape[1:]), view)
  return _log_mean_softmax(logits.reshape(len(images), -1, logits.shape[-1]))


def _log_mean_softmax(logits: jax.Array) -> jax.Array:
  """(N, views, classes) -> (N, classes)."""
  log_scores = jax.nn.log_softmax(logits, axis=-1)
  return jax.nn.logsumexp(log_scores, axis=1) - np.log(logits.shape[1])


def make_score_step(
  view: View, score: Callable[[Any, jax.Array], jax.Array], axis_name: str | None = None
) -> Callable[[Any, Any, Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]:
  """The pure function that scores one batch.

  Args:
    view: What the network is shown.
    score: As in `Pass`.
    axis_name: The mapped axis that the batch is spread over, or None.

  Returns:
    `step(variables, constants, batch, key)` -> of the global batch `scores` (N, classes), `label`,
    `example`, `weight` and `real`, each (N,).
  """

  def step(
    variables: Any, constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
  ) -> dict[str, jax.Array]:
    images, labels = view(constants, batch, key)
    kept = {name: batch[name] for name in ("example", "weight", "real")}
    result = {"scores": score(variables, images), "label": labels, **kept}
    if axis_name is None:
      return result
    return jax.lax.all_gather(result, axis_name, tiled=True)

  return step


def score_split(
  passes: Sequence[Pass],
  variables: Any,
  key: jax.Array,
  parallelize: Callable[..., Any] = devices.parallelize,
  advance: Callable[[int], Any] = lambda examples: None,
  compiling: Callable[[], Any] = lambda: None,
) -> Scores:
  """Computes the mean scores of all passes, on all devices.

  Args:
    passes: At least one, all of the same split.
    variables: `params` and `batch_stats`, replicated.
    key: The run's key.
    parallelize: `devices.parallelize`, or the same with other defaults.
    advance: Called after each batch with the number of its examples.
    compiling: Called before a program is compiled for a new shape of batches.

  Raises:
    RuntimeError: A pass did not see every example once.
    UserError: The network's outputs are not finite.
  """
  import scipy.special  # Imported here, because it takes half a second and training never needs it.

  size, name = passes[0].size, passes[0].name
  labels, weights = np.zeros(size, np.int32), np.ones(size, np.float32)
  total: np.ndarray | None = None
  for one in passes:
    seen = np.zeros(size, int)
    for batch in _scored(one, variables, key, parallelize, compiling):
      real = batch["real"] > 0
      example = batch["example"][real]
      # In float64 normalising keeps the order of any two float32 logits.
      found = scipy.special.log_softmax(batch["scores"][real].astype(np.float64), axis=-1)
      if total is None:
        total = np.full((size, found.shape[1]), -np.inf)
      readable = batch["weight"][real] > 0
      _require_finite(found[readable])
      labels[example] = batch["label"][real]
      weights[example] *= readable
      total[example] = np.logaddexp(total[example], found)
      np.add.at(seen, example, 1)
      advance(len(example))
    if not (seen == 1).all():
      raise RuntimeError(
        f"saw {seen.sum()} of {size} examples of {name}, {(seen == 1).sum()} of them once"
      )
  assert total is not None  # A split has examples.
  return Scores(total - np.log(len(passes)), labels, weights)


def mean_scores(members: Iterable[Scores]) -> Scores:
  """The scores of an ensemble: the mean of its members' softmax scores (paper, Table 5).

  Raises:
    UserError: The members were not shown the same examples.
  """
  total: Scores | None = None
  count = 0
  for scores in members:
    count += 1
    if total is None:
      total = scores
      continue
    if total.log_scores.shape != scores.log_scores.shape or (total.labels != scores.labels).any():
      raise UserError("the runs were shown other examples or classes: evaluate each alone")
    both = np.logaddexp(total.log_scores, scores.log_scores)
    total = Scores(both, total.labels, total.weights * scores.weights)
  if total is None:
    raise ValueError("an ensemble without members")
  return dataclasses.replace(total, log_scores=total.log_scores - np.log(count))


def _scored(
  one: Pass,
  variables: Any,
  key: jax.Array,
  parallelize: Callable[..., Any],
  compiling: Callable[[], Any],
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the results of a pass on the host, one batch behind the devices."""
  step = parallelize(
    make_score_step(one.view, one.score, devices.AXIS), batch_argument=2, arguments=4
  )
  constants, key = devices.replicate((one.constants, key))
  running: Any = None
  compiled: set[Any] = set()
  for batch in prefetch(one.batches(), devices.shard):
    shapes = tuple(array.shape for array in batch.values())
    if shapes not in compiled:
      compiled.add(shapes)
      compiling()
    following = step(variables, constants, batch, key)
    if running is not None:
      yield jax.device_get(running)
    running = following
  if running is not None:
    yield jax.device_get(running)


def _require_finite(log_scores: np.ndarray) -> None:
  if bad := int(np.isnan(log_scores).any(1).sum()):
    raise UserError(
      f"the network's outputs are not finite for {bad} or more examples: evaluate an earlier "
      "--checkpoint, or in float32 (config.model.dtype)"
    )


def view_scorer(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
  """`score_views` of a network, as `Pass` takes it."""
  return functools.partial(score_views, model)


def dense_scorer(model: Network, view: int) -> Callable[[Any, jax.Array], jax.Array]:
  """`score_densely` of a network, as `Pass` takes it."""
  return functools.partial(score_densely, model, view=view)
