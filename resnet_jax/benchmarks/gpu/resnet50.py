"""Training of ResNet-50 in bfloat16, compared with Flax and PyTorch."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from resnet_jax import models
from resnet_jax.benchmarks.peers.benchmark import PeersBenchmark, run_peers_benchmark

NETWORK = "resnet50"

# The forward pass, and products as large for the gradients of the weights and of the inputs.
_PASSES = 3


def measure(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Runs the peers benchmark of ResNet-50's training and prints progress.

  Args:
    fields: Further fields of `PeersBenchmark`.

  Returns:
    The result of `run_peers_benchmark`.
  """
  jax.config.update("jax_platforms", "cpu")  # The sides use the GPU, in processes of their own.
  benchmark = PeersBenchmark(
    networks=(NETWORK,), modes=("training",), **{"dtype": "bfloat16", **fields}
  )
  return run_peers_benchmark(benchmark, functools.partial(print, flush=True))


def flops_per_image(image_size: int) -> int:
  """Returns the floating-point operations of a training step per image, matrix products only."""
  macs = models.cost(models.create(NETWORK, stride_in="3x3"), (image_size, image_size, 3)).macs
  return _PASSES * 2 * macs
