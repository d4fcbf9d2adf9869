"""Asks JAX, in a process of its own, on what kind of device the sides will compute."""

import itertools

import jax

from resnet_jax.benchmarks.peers.jax_device import device_facts
from resnet_jax.benchmarks.peers.task import PeerTask
from resnet_jax.benchmarks.work import Work


def work(task: PeerTask) -> Work:
  """No work: its report is what `device_facts` gives."""
  del task
  return Work(itertools.repeat(1), report=lambda: device_facts(jax.devices()))
