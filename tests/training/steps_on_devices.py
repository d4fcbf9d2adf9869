"""Trains small nets for some steps on this process's devices; run by test_step_on_devices.py.

  python steps_on_devices.py DTYPE STEPS FOLDER BATCH_NORM_GROUP...

One net for each group. Writes into FOLDER/GROUP.npz the loss of each step, every parameter and
running statistic at the end, and the gradient of the first step; fails unless every leaf of the
state is bit-equal on all devices.
"""

import pathlib
import sys

import jax
import numpy as np


def main(dtype: str, steps: str, folder: str, *groups: str) -> None:
  jax.config.update("jax_enable_x64", dtype == "float64")
  for group in groups:
    train(dtype, int(steps), group, pathlib.Path(folder) / f"{group}.npz")


def train(dtype: str, steps: int, group: str, output: pathlib.Path) -> None:
  from resnet_jax import devices, models, training
  from resnet_jax.data import DataConfig, SyntheticConfig, feed
  from resnet_jax.training.build import build_run
  from resnet_jax.training.loop import compile_step
  from resnet_jax.training.restore import initial_state

  net = {"stage_sizes": (1, 1, 1), "width": 8, "dtype": dtype, "param_dtype": dtype}
  config = training.Config(
    model=models.ModelConfig("resnet20", net),
    data=DataConfig("synthetic", synthetic=SyntheticConfig(train_examples=64, image_size=8)),
    batch_size=16,
    bn_group=None if group == "all" else int(group),
    length="100 steps",
  )
  run = build_run(config)
  split = run.dataset.splits["train"]

  state = initial_state(run)
  before = jax.device_get(state.params)
  step, constants = compile_step(run), devices.replicate(split.constants)
  batches, losses = feed.training_batches(split, config.seed, config.batch_size, 0), []
  for i in range(steps):
    state, sums = step(state, constants, devices.shard(next(batches)), run.key)
    losses.append(float(sums.loss) / float(sums.weight))
    if i == 0:
      after = jax.device_get(state.params)
  rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
  # The first update is w1 = w0 - rate (gradient + decay w0).
  gradient = jax.tree.map(lambda w0, w1: (w0 - w1) / rate - decay * w0, before, after)
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(shards) == jax.device_count(), path
    for shard in shards:
      np.testing.assert_array_equal(shard, shards[0], err_msg=str(path), strict=True)
  arrays = {"losses": np.array(losses)}
  for kind, tree in (("state", state.variables), ("gradient", gradient)):
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
      arrays[kind + jax.tree_util.keystr(path)] = leaf
  np.savez(output, **arrays)


if __name__ == "__main__":
  main(*sys.argv[1:])
