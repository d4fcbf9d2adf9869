"""ResNet-50's training beside its peers, in bfloat16."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from resnet_jax import models
from resnet_jax.benchmarks.peers.benchmark import PeersBenchmark, run_peers_benchmark

NETWORK = "resnet50"

# Of a step: the forward pass, and two products as large, for the gradients of weights and inputs.
_PASSES = 3


def measure(fields: Mapping[str, Any]) -> dict[str, Any]:
  """`run_peers_benchmark` of ResNet-50's training; progress is printed.

  Args:
    fields: Further fields of `PeersBenchmark`.
  """
  jax.config.update("jax_platforms", "cpu")  # The sides take the GPU, in processes of their own.
  benchmark = PeersBenchmark(
    networks=(NETWORK,), modes=("training",), **{"dtype": "bfloat16", **fields}
  )
  return run_peers_benchmark(benchmark, functools.partial(print, flush=True))


def flops_per_image(image_size: int) -> int:
  """Floating-point operations of a training step for one image: those of its products."""
  macs = models.cost(models.create(NETWORK, stride_in="3x3"), (image_size, image_size, 3)).macs
  return _PASSES * 2 * macs
