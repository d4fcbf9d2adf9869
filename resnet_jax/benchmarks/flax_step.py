"""The training step of a run with a plain Flax network, to compare its cost with ours."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.benchmarks.peers.benchmark import describe_task
from resnet_jax.benchmarks.peers.flax_resnet import FlaxResNet
from resnet_jax.benchmarks.peers.jax_device import parameter_count
from resnet_jax.errors import UserError
from resnet_jax.training.build import Run


def with_flax_network(run: Run) -> Run:
  """Replaces a run's network by its counterpart in the style of Flax's ImageNet example.

  The result is for compiling, not for training: as in the example, batch norm normalises over the
  images of a device, and each device keeps its own running statistics. The view, the optimizer and
  the gradient exchange are those of the run.

  Raises:
    UserError: The run's network has no plain Flax counterpart.
  """
  name, image_shape = run.config.model.name, run.dataset.image_shape
  task = describe_task(
    name,
    run.model,
    mode="training",
    batch_size=run.config.batch_size,
    image_size=image_shape[0],
    dtype=run.config.model.overrides.get("dtype", "float32"),
  )
  network = FlaxResNet(task)
  images = jnp.zeros((1, *image_shape))
  variables = jax.eval_shape(functools.partial(network.init, train=False), run.key, images)
  ours, flax = (parameter_count(each["params"]) for each in (run.variables, variables))
  if ours != flax:
    raise UserError(
      f"{name} has {ours:,} parameters and its plain Flax counterpart {flax:,}: leave out the "
      "fields of config.model that change the architecture, or the peer"
    )
  model: Any = network
  return dataclasses.replace(run, model=model, variables=variables)
