"""Flax's side: stock layers, SGD by optax, and one jitted step that donates its state."""

import functools
import time
from typing import Any

import jax
import numpy as np
import optax

from resnet_jax.benchmarks.peers.flax_resnet import FlaxResNet
from resnet_jax.benchmarks.peers.jax_device import device_facts, parameter_count
from resnet_jax.benchmarks.peers.repeated import repeat
from resnet_jax.benchmarks.peers.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, PeerTask
from resnet_jax.benchmarks.work import Work


def work(task: PeerTask) -> Work:
  """Builds training or inference of one batch, on JAX's default device."""
  begun = time.perf_counter()
  model = FlaxResNet(task)
  optimizer = optax.chain(
    optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM)
  )
  generator = np.random.default_rng(0)
  shape = (task.batch_size, task.image_size, task.image_size, 3)
  images = jax.device_put(generator.standard_normal(shape, np.float32))
  labels = jax.device_put(generator.integers(0, task.num_classes, task.batch_size, np.int32))
  # Compiling Flax's own initialisation would take longer than the whole measurement.
  shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
  variables = jax.device_put(jax.tree_util.tree_map_with_path(_draw, shapes))
  params, batch_stats = variables["params"], variables["batch_stats"]
  state = (params, batch_stats, optimizer.init(params))
  jax.block_until_ready(state)
  facts = device_facts(jax.devices()[:1]) | {
    "parameters": parameter_count(params),
    "setup_seconds": time.perf_counter() - begun,
  }

  def loss_fn(params: Any, batch_stats: Any, images: Any, labels: Any) -> Any:
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), updated["batch_stats"]

  def step(state: Any, images: Any, labels: Any) -> Any:
    params, batch_stats, opt_state = state
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, batch_stats), grads = gradient(params, batch_stats, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

  train_step = jax.jit(step, donate_argnums=0)
  apply = jax.jit(lambda variables, images: model.apply(variables, images, train=False))

  def launch() -> Any:
    nonlocal state
    state, loss = train_step(state, images, labels)
    return loss

  training = task.mode == "training"
  return repeat(
    launch=launch if training else lambda: apply(variables, images),
    wait=jax.block_until_ready,
    loss=float if training else lambda logits: None,
    images=task.batch_size,
    facts=facts,
    device_memory=_peak_memory,
    settle=lambda: jax.block_until_ready(state),
  )


def _draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
  """Draws initial values: He initialisation for kernels, identity batch norms."""
  name = path[-1].key
  if name == "kernel":
    values = np.random.default_rng(0).standard_normal(leaf.shape, np.float32)
    return values * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
  return np.full(leaf.shape, name in ("scale", "var"), np.float32)


def _peak_memory() -> int:
  return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
