"""What devices exchange in a step: the gradient once, and what batch norm was asked for."""

import dataclasses
import functools
import re

import jax
import pytest

from resnet_jax import devices
from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import Config
from resnet_jax.training.build import build_run
from resnet_jax.training.collectives import Collective, collectives_of
from resnet_jax.training.dry_run import describe_run
from resnet_jax.training.loop import compile_step, device_batches
from resnet_jax.training.restore import initial_state

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
  data=DataConfig("synthetic", synthetic=SyntheticConfig(64, 16, image_size=8)),
  batch_size=32,
  bn_group=4,
  length="10 steps",
)
BATCH_NORMS = 3
FEATURES = 4


@functools.cache
def exchanged(**changes) -> tuple[list[Collective], int]:
  """The collectives of a step, and the bytes of its gradient, sums and running statistics."""
  run = build_run(dataclasses.replace(CONFIG, **changes))
  state = initial_state(run)
  batches = device_batches(run, 0)
  batch = next(batches)
  batches.close()
  constants, key = devices.replicate((run.dataset.splits["train"].constants, run.key))
  program = compile_step(run).lower(state, constants, batch, key).compile().as_text()
  return collectives_of(program), 4 * (sum(x.size for x in jax.tree.leaves(state.variables)) + 4)


@pytest.mark.parametrize(("parallel", "accumulate"), [("pmap", 1), ("shard_map", 2)])
def test_a_step_exchanges_gradient_sums_and_statistics_once(parallel, accumulate):
  found, size = exchanged(parallel=parallel, accumulate=accumulate)
  # The statistics are means over devices for each part; XLA joins them with the gradient, or not.
  parts = size + (accumulate - 1) * 4 * 2 * BATCH_NORMS * FEATURES
  assert [c.kind for c in found] == ["all-reduce"]
  assert found[0].count == 1
  assert size <= found[0].size <= parts


def test_batch_norm_over_devices_adds_one_exchange_forwards_and_one_backwards_a_layer():
  found, size = exchanged(bn_group=16)
  alone, _ = exchanged(parallel="pmap", accumulate=1)
  assert [c.kind for c in found] == ["all-reduce"]
  assert found[0].count <= 1 + 2 * BATCH_NORMS + 1
  assert found[0].size <= size + 8 * alone[0].size


def test_the_dry_run_says_what_devices_exchange():
  assert re.search(r"exchanged a step +1 x all-reduce, \d", describe_run(build_run(CONFIG)))


@pytest.mark.parametrize(
  ("line", "kind", "size"),
  [
    ("%a = f32[10,2]{1,0} all-reduce(%x), channel_id=1", "all-reduce", 80),
    ("%a = (f32[8]{0}, /*index=1*/bf16[3]{0}, f64[]) all-reduce-start(%x)", "all-reduce", 46),
    ("%a = pred[7]{0} all-gather(%x)", "all-gather", 7),
    ("%a = f8e4m3fn[16]{0} all-to-all(%x)", "all-to-all", 16),
    ("%a = u32[] collective-permute(%x)", "collective-permute", 4),
  ],
)
def test_the_size_is_that_of_the_arrays(line, kind, size):
  assert collectives_of(line) == [Collective(kind, 1, size)]


@pytest.mark.parametrize(
  "line", ["%a = f32[10] all-reduce-done(%b)", "%a = f32[10] fusion(%all-reduce.3)", "ENTRY %main"]
)
def test_other_instructions_do_not_count(line):
  assert collectives_of(line) == []
