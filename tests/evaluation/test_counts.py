"""A thousand examples are a thousand, however many there are at a time."""

import os
import subprocess
import sys

PROGRAM = """
import jax
import numpy as np
from flax import linen as nn

from resnet_jax import devices
from resnet_jax.data import DataConfig, ResidentConfig, StreamingConfig, resident_dataset
from resnet_jax.evaluation import Protocol, make_passes, outcomes, score_split


class Linear(nn.Module):
  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(7)(images.reshape(len(images), -1))


assert jax.device_count() == 3
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (1_000, 2, 2, 1), np.uint8), rng.integers(0, 7, 1_000)
config = DataConfig("made", mean=(0.0,), resident=ResidentConfig(padding=0))
arrays = dict.fromkeys(("train", "test"), (images, labels))
dataset = resident_dataset("made", arrays, list("abcdefg"), config)
split = dataset.splits["test"]
kernel = rng.normal(size=(4, 7)).astype(np.float32)
variables = {"params": {"Dense_0": {"kernel": kernel, "bias": np.zeros(7, np.float32)}}}
errors = int(((images.reshape(1_000, 4) @ kernel).argmax(-1) != labels).sum())
placed = devices.replicate(variables)
for batch_size in (1, 7, 256):
  passes = make_passes(Protocol(), split, StreamingConfig(), Linear(), batch_size)
  found = outcomes(score_split(passes, placed, jax.random.key(0)))
  assert (found.examples, found.errors(1)) == (1_000, errors), batch_size
print("counted", errors)
"""


def test_each_example_counts_once_for_every_batch_size_on_three_devices():
  environment = os.environ | {
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=3",
    "JAX_PLATFORMS": "cpu",
  }
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    check=False,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.startswith("counted ")
