"""A whole training of the smallest run in plain JAX and NumPy, from its config's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from optimizer_rows import Equations, names_of

from resnet_jax.training.build import build_run
from resnet_jax.training.restore import initial_state

EPSILON, MOMENTUM = 1e-5, 0.9  # of batch norm


def positions(seed, size, count):
  """The examples of the training stream from its start: an argsort of Philox's words an epoch."""

  def philox(seed, epoch):
    return np.random.Philox(key=np.array([seed, epoch], np.uint64))

  epochs = [
    np.argsort(philox(seed, epoch).random_raw(size + 1)[:size], kind="stable")
    for epoch in range(-(-count // size))
  ]
  return np.concatenate(epochs)[:count]


def forward(params, images, group=None, stats=None):
  """Logits, and the mean and variance of each group of consecutive examples.

  Of a training step where `group` is given; of an evaluation where running statistics are.
  """
  conv, norm = params["stage1"]["conv1"], params["stage1"]["norm1"]
  layout = ("NHWC", "HWIO", "NHWC")
  x = jax.lax.conv_general_dilated(images, conv["kernel"], (1, 1), "SAME", None, None, layout)
  x = x + conv["bias"]
  n, height, width, channels = x.shape
  groups = x.reshape(-1, group or n, height, width, channels)
  mean = groups.mean((1, 2, 3), keepdims=True)
  variance = ((groups - mean) ** 2).mean((1, 2, 3), keepdims=True)
  if stats:
    mean, variance = stats["stage1"]["norm1"]["mean"], stats["stage1"]["norm1"]["var"]
  x = ((groups - mean) / jnp.sqrt(variance + EPSILON)).reshape(x.shape)
  x = jnp.maximum(norm["scale"] * x + norm["bias"], 0)
  x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4)).mean((1, 2))
  logits = x @ params["head"]["kernel"] + params["head"]["bias"]
  return logits, (mean.reshape(-1, channels), variance.reshape(-1, channels))


def cross_entropy(logits, labels, smoothing):
  classes = logits.shape[1]
  targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
  return -(targets * jax.nn.log_softmax(logits)).sum(1).mean()


def normalised(pixels):
  """What the network is shown of pixels by the config that is varied."""
  return (pixels / np.float32(255) - np.float32(0.5)).astype(np.float64)


def loss_of(variables, data):
  """The loss of an evaluation on all examples of a split."""
  params, stats = variables["params"], variables["batch_stats"]
  logits, _ = forward(params, normalised(data["images"]), stats=stats)
  return float(cross_entropy(logits, data["labels"], 0.0))


def train_by_hand(config, steps):
  """State and records after some steps; the arrays by name, in float64.

  It knows batches in the order of the stream, label smoothing, groups of batch norm, the optimizers
  at a constant rate and the moving average; it knows neither devices nor parts of a batch.
  """
  with jax.enable_x64(True):
    run = build_run(config)
    state = jax.device_get(initial_state(run))
    data, held_out = (run.dataset.splits[name].constants for name in ("train", "validation"))
    order = positions(config.seed, len(data["labels"]), steps * config.batch_size)
    equations, losses = Equations(config), []
    params, stats = state.params, state.batch_stats
    average = {"params": params, "batch_stats": stats}
    names, structure = list(names_of(params)), jax.tree.structure(params)
    for step in range(steps):
      chosen = order[step * config.batch_size :][: config.batch_size]
      images, labels = normalised(data["images"][chosen]), data["labels"][chosen]

      def loss(params, images=images, labels=labels):
        logits, moments = forward(params, images, group=config.bn_group or config.batch_size)
        plain = cross_entropy(logits, labels, 0.0)
        return cross_entropy(logits, labels, config.label_smoothing), (plain, moments)

      gradient, (plain, moments) = jax.grad(loss, has_aux=True)(params)
      losses.append(float(plain))
      after = equations.update(names_of(params), names_of(jax.device_get(gradient)))
      params = jax.tree.unflatten(structure, [after[name] for name in names])
      latest = dict(zip(("mean", "var"), (np.asarray(m).mean(0) for m in moments), strict=True))
      stats = jax.tree.map(
        lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, stats, {"stage1": {"norm1": latest}}
      )
      weight = min(config.ema_decay or 0, (1 + step) / (10 + step))
      average = jax.tree.map(
        lambda old, new, d=weight: d * old + (1 - d) * new,
        average,
        {"params": params, "batch_stats": stats},
      )
    variables = {"params": params, "batch_stats": stats}
    found = {name: names_of(tree) for name, tree in variables.items()}
    found |= {"average": names_of(average if config.ema_decay else {}), "loss": np.mean(losses)}
    measured = {"": variables} | ({"ema_": average} if config.ema_decay else {})
    found["validation"] = {
      f"{name}loss": loss_of(each, held_out) for name, each in measured.items()
    }
    return found
