"""A side that only reports the device that JAX finds, in a process of its own."""

import itertools

import jax

from resnet_jax.benchmarks.peers.jax_device import device_facts
from resnet_jax.benchmarks.peers.task import PeerTask
from resnet_jax.benchmarks.work import Work


def work(task: PeerTask) -> Work:
  """Builds empty work whose report is `device_facts`."""
  del task
  return Work(itertools.repeat(1), report=lambda: device_facts(jax.devices()))
