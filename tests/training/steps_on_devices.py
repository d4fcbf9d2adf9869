"""Trains a small net for some steps on this process's devices; run by test_step_on_devices.py.

  python steps_on_devices.py FOLDER CASE...

A case is NAME:DTYPE:STEPS:FIELD=VALUE:..., its fields those of a config. Writes to FOLDER/NAME.npz
the loss of each step, every leaf of the state at the end, and the gradient of the first step; fails
unless every leaf of the state is bit-equal on all devices.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np


def main(folder: str, *cases: str) -> None:
  for case in cases:
    name, dtype, steps, *fields = case.split(":")
    values = {key: json.loads(value) for key, value in (field.split("=") for field in fields)}
    arrays = train(dtype, int(steps), values)
    np.savez(pathlib.Path(folder) / f"{name}.npz", **arrays)


def train(dtype: str, steps: int, fields: dict) -> dict:
  jax.config.update("jax_enable_x64", dtype == "float64")
  from resnet_jax import devices, models, training
  from resnet_jax.data import DataConfig, SyntheticConfig
  from resnet_jax.training.build import build_run
  from resnet_jax.training.loop import compile_step, device_batches
  from resnet_jax.training.restore import initial_state

  net = {"stage_sizes": (1,), "width": 2, "dtype": dtype, "param_dtype": dtype}
  config = training.Config(
    model=models.ModelConfig("resnet20", net),
    data=DataConfig("synthetic", synthetic=SyntheticConfig(train_examples=64, image_size=8)),
    batch_size=32,
    length="100 steps",
    label_smoothing=0.1,
    ema_decay=0.9,
  )
  run = build_run(dataclasses.replace(config, **fields))
  state = initial_state(run)
  before = jax.device_get(state.params)
  step = compile_step(run)
  constants = devices.replicate(run.dataset.splits["train"].constants)
  batches, losses = device_batches(run, 0), []
  for i in range(steps):
    state, sums = step(state, constants, next(batches), run.key)
    losses.append(float(sums.loss) / float(sums.weight))
    if i == 0:
      after = jax.device_get(state.params)
  batches.close()
  rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
  # The first update is w1 = w0 - rate (gradient + decay w0).
  gradient = jax.tree.map(lambda w0, w1: (w0 - w1) / rate - decay * w0, before, after)
  arrays = {"losses": np.array(losses)}
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(shards) == jax.device_count(), path
    for shard in shards:
      np.testing.assert_array_equal(shard, shards[0], err_msg=str(path), strict=True)
    arrays["state" + jax.tree_util.keystr(path)] = shards[0]
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    arrays["gradient" + jax.tree_util.keystr(path)] = leaf
  return arrays


if __name__ == "__main__":
  main(*sys.argv[1:])
