"""What a training step computes, against loops of float64 numpy that share no code with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax import training
from resnet_jax.devices import AXIS
from resnet_jax.evaluation.metrics import cross_entropy
from resnet_jax.models.additions import DropoutAddition

EXAMPLES, FEATURES, CLASSES = 6, 4, 5


class Linear(nn.Module):
  """A dense layer behind a norm whose statistics are kept, and nothing that has to be derived."""

  @nn.compact
  def __call__(self, images, train=False):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (FEATURES, CLASSES), jnp.float64)
    bias = self.param("bias", nn.initializers.normal(1.0), (CLASSES,), jnp.float64)
    mean = self.variable("batch_stats", "mean", jnp.zeros, (FEATURES,), jnp.float64)
    x = images.reshape(len(images), -1)
    if train and not self.is_initializing():
      mean.value = 0.75 * mean.value + 0.25 * x.mean(0)
    return x @ kernel + bias


def view(constants, batch, key):
  del constants, key
  return batch["image"], batch["label"]


def batch(step, weights=(1, 1, 1, 1, 1, 1)):
  generator = np.random.default_rng(step)
  return {
    "image": generator.normal(size=(EXAMPLES, 1, 1, FEATURES)),
    "label": generator.integers(0, CLASSES, EXAMPLES).astype(np.int32),
    "weight": np.array(weights, np.float32),
  }


def softmax(scores):
  """Probabilities of one example, by a loop."""
  largest = max(scores)
  powers = [np.exp(score - largest) for score in scores]
  return [power / sum(powers) for power in powers]


def smoothed_loss(scores, label, smoothing):
  """The cross-entropy of the smoothed label (arXiv 1512.00567, section 7), class by class."""
  probabilities, total = softmax(scores), 0.0
  for k in range(len(scores)):
    share = (1 - smoothing) * (k == label) + smoothing / len(scores)
    total -= share * np.log(probabilities[k])
  return total


@pytest.mark.parametrize("classes", [2, 5, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_a_smoothed_label_has_its_weight_spread_over_all_classes(x64, classes, smoothing):
  generator = np.random.default_rng(classes)
  logits = 3 * generator.normal(size=(4, classes))
  labels = np.array([0, classes - 1, 1, classes // 2])
  expected = [smoothed_loss(s, label, smoothing) for s, label in zip(logits, labels, strict=True)]
  found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-13)


def by_hand(params, stats, arrays, smoothing):
  """Gradient of kernel and bias, new mean, and loss and accuracy of the labels as they are."""
  images, labels = arrays["image"].reshape(EXAMPLES, FEATURES), arrays["label"]
  weights = arrays["weight"]
  kernel, bias, loss, right = np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES), 0.0, 0.0
  for x, label, weight in zip(images, labels, weights, strict=True):
    scores = [
      params["bias"][k] + sum(x[j] * params["kernel"][j, k] for j in range(FEATURES))
      for k in range(CLASSES)
    ]
    probabilities = softmax(scores)
    loss += weight * smoothed_loss(scores, label, 0.0)
    right += weight * (int(np.argmax(scores)) == label)
    for k in range(CLASSES):
      target = (1 - smoothing) * (k == label) + smoothing / CLASSES
      error = weight * (probabilities[k] - target) / sum(weights)
      bias[k] += error
      for j in range(FEATURES):
        kernel[j, k] += error * x[j]
  mean = 0.75 * stats["mean"] + 0.25 * sum(images) / EXAMPLES
  return {"kernel": kernel, "bias": bias}, {"mean": mean}, loss, right


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1, 1), (1, 0, 1, 1, 1, 1)])
def test_smoothing_decay_momentum_and_the_average_of_a_step_are_those_of_loops(x64, weights):
  """Three steps, of which each quantity is followed in numpy beside the state."""
  smoothing, rate, momentum, decay, ema = 0.3, 0.5, 0.9, 0.07, 0.15
  config = training.OptimizerConfig(momentum=momentum, weight_decay=decay, undecayed=("bias",))
  optimizer = training.make_optimizer(config, optax.constant_schedule(rate))
  model = Linear()
  state = training.create_state(model, optimizer, jax.random.key(0), (1, 1, FEATURES), True)
  step = jax.jit(
    training.make_step(view, model, optimizer, label_smoothing=smoothing, ema_decay=ema)
  )
  params, stats = jax.device_get((state.params, state.batch_stats))
  velocity = jax.tree.map(np.zeros_like, params)
  average = {"params": params, "batch_stats": stats}
  for number in range(3):
    arrays = batch(number, weights)
    state, sums = step(state, {}, arrays, jax.random.key(1))
    gradient, stats, loss, right = by_hand(params, stats, arrays, smoothing)
    for name, share in (("kernel", decay), ("bias", 0.0)):
      velocity[name] = momentum * velocity[name] + gradient[name] + share * params[name]
    params = {name: params[name] - rate * velocity[name] for name in params}
    # The average is of the variables after the step; its weight of the past grows to `ema`.
    past = min(ema, (1 + number) / (10 + number))
    average = jax.tree.map(
      lambda old, new, past=past: past * old + (1 - past) * new,
      average,
      {"params": params, "batch_stats": stats},
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    close(sums.loss, loss)
    assert (sums.top1, sums.weight) == (right, sum(weights))
    jax.tree.map(close, state.params, params)
    jax.tree.map(close, state.batch_stats, stats)
    jax.tree.map(close, state.average, average)
  assert past == ema  # The last step is one of the full decay, the first of less.


KEEP, WIDTH = 0.75, 4096


class Dropped(nn.Module):
  """Logits that show which values of the shortcut a dropout kept, through the running statistics.

  The last mask is left in `batch_stats`, where a step of training keeps it.
  """

  @nn.compact
  def __call__(self, images, train=False):
    scale = self.param("scale", nn.initializers.ones_init(), (CLASSES,))
    last = self.variable("batch_stats", "mask", jnp.zeros, (1, WIDTH))
    addition = DropoutAddition(1 - KEEP, deterministic=not train)
    ones = jnp.ones((len(images), 1, 1, WIDTH))
    kept = addition(ones, jnp.zeros_like(ones))[:, 0, 0]
    if train and not self.is_initializing():
      last.value = kept[:1]
    return kept[:, :CLASSES] * scale


def masks(steps, devices=1, accumulate=1, seed=0):
  """What dropout kept, of the first example of a device and part, step by step."""
  model, optimizer = Dropped(), optax.sgd(0.1)
  axis = AXIS if devices > 1 else None
  state = training.create_state(model, optimizer, jax.random.key(0), (1, 1, FEATURES))
  step = training.make_step(view, model, optimizer, axis, accumulate=accumulate)
  if devices == 1:
    run = jax.jit(step)
  else:
    run = jax.pmap(step, AXIS, in_axes=(None, None, 0, None), devices=jax.devices()[:devices])
  found = []
  for number in range(steps):
    arrays = batch(number)
    if devices > 1:
      arrays = {k: v.reshape(devices, EXAMPLES // devices, *v.shape[1:]) for k, v in arrays.items()}
    after, _ = run(state.replace(step=jnp.int32(number)), {}, arrays, jax.random.key(seed))
    found.append(np.asarray(after.batch_stats["mask"]).reshape(devices, WIDTH))
  return np.stack(found)


def assert_independent(first, second):
  """That two masks agree as often as two draws would: with probability p^2 + (1 - p)^2."""
  agree = ((first > 0) == (second > 0)).mean()
  expected = KEEP**2 + (1 - KEEP) ** 2
  assert abs(agree - expected) < 5 * np.sqrt(expected * (1 - expected) / WIDTH)


def test_dropout_keeps_its_share_and_differs_by_step_device_and_seed():
  drawn = masks(3, devices=2)
  again, other = masks(3, devices=2), masks(1, devices=2, seed=1)
  np.testing.assert_array_equal(drawn, again)
  for mask in drawn.reshape(-1, WIDTH):
    # What is kept is scaled, so that the mean stays.
    np.testing.assert_allclose(np.unique(mask), [0, 1 / KEEP], rtol=1e-6)
    assert abs((mask > 0).mean() - KEEP) < 5 * np.sqrt(KEEP * (1 - KEEP) / WIDTH)
  several = [*drawn.reshape(-1, WIDTH), *other[0]]
  for i, mask in enumerate(several):
    for earlier in several[:i]:
      assert_independent(mask, earlier)


def test_dropout_differs_by_part_of_a_batch():
  # The statistics of a step are the mean over its parts, so their masks show in it.
  [mean] = masks(1, accumulate=2)[0]
  values, counts = np.unique(np.round(mean * KEEP * 2), return_counts=True)
  np.testing.assert_array_equal(values, [0, 1, 2])  # kept in neither, one, or both parts
  expected = WIDTH * np.array([(1 - KEEP) ** 2, 2 * KEEP * (1 - KEEP), KEEP**2])
  assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
