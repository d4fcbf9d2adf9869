"""Loss and accuracy of logits, and sums of them that add up over batches and devices."""

import math

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
  """The negative log-likelihood of each label, in nats.

  Args:
    logits: (N, C) float; computed in float32 or wider.
    labels: (N,) int.
    label_smoothing: Share of the label's weight that is spread over all C classes, the label's own
      included (arXiv 1512.00567, section 7).

  Returns:
    (N,).
  """
  chex.assert_rank([logits, labels], [2, 1])
  wide = jnp.promote_types(logits.dtype, jnp.float32)
  logits = logits.astype(wide)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not label_smoothing:
    return losses
  spread = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
  return (1 - label_smoothing) * losses + label_smoothing * spread


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether the label is among the k largest logits.

  Of equal logits the one of the smaller class comes first, as in `argmax`; a label whose logit is
  NaN is never among them.

  Args:
    logits: (N, C) float.
    labels: (N,) int, each in [0, C).
    k: How many; with k >= C all labels are, but for those whose logit is NaN.

  Returns:
    (N,) bool.
  """
  chex.assert_rank([logits, labels], [2, 1])
  label = labels[:, None]
  own = jnp.take_along_axis(logits, label, axis=1)
  classes = jnp.arange(logits.shape[1])
  behind = (logits < own) | ((logits == own) & (classes > label))
  rank = logits.shape[1] - 1 - behind.sum(1)
  return (rank < k) & ~jnp.isnan(own[:, 0])


@flax.struct.dataclass
class MetricSums:
  """Sums over examples, each scalar float32 or wider.

  Attributes:
    loss: Of weight times cross-entropy.
    top1: Of the weights of the examples whose label has the largest logit.
    top5: Of the weights of the examples whose label is among the five largest logits.
    weight: Of the weights: with weights 0 and 1, the number of examples.
  """

  loss: jax.Array
  top1: jax.Array
  top5: jax.Array
  weight: jax.Array


def metric_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> MetricSums:
  """The sums of one batch.

  Args:
    logits: (N, C) float.
    labels: (N,) int.
    weights: (N,) float; an example of weight 0 contributes nothing, whatever its logits.
  """

  def total(values: jax.Array) -> jax.Array:
    return jnp.where(weights > 0, weights * values, 0).sum()

  return MetricSums(
    loss=total(cross_entropy(logits, labels)),
    top1=total(in_top_k(logits, labels, 1)),
    top5=total(in_top_k(logits, labels, 5)),
    weight=weights.sum(),
  )


def summarize(sums: MetricSums) -> dict[str, float]:
  """Means from sums: `loss`, `accuracy`, `top5_accuracy` in [0, 1], and the number `examples`.

  The means of no examples are NaN.
  """
  weight = float(sums.weight)
  means = [
    float(total) / weight if weight else math.nan for total in (sums.loss, sums.top1, sums.top5)
  ]
  names = ("loss", "accuracy", "top5_accuracy")
  return dict(zip(names, means, strict=True)) | {"examples": round(weight)}
