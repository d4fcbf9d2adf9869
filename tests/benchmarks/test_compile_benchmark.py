"""Compiling for described TPUs: what is asked of the compiler, and what is made of its answers."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax import cli
from resnet_jax.benchmarks import tpu_slice
from resnet_jax.benchmarks.compile import largest_fitting
from resnet_jax.benchmarks.flax_step import with_flax_network
from resnet_jax.benchmarks.peers.flax_resnet import FlaxBlock
from resnet_jax.benchmarks.tpu_slice import describe_slice
from resnet_jax.data.blank import blank_dataset
from resnet_jax.errors import UserError
from resnet_jax.run.config import load_config, override_config
from resnet_jax.training.build import build_run
from resnet_jax.training.config import Config
from resnet_jax.training.restore import state_shapes
from resnet_jax.training.step import make_step

SMALL = ("--config", "cifar10:resnet20", "--config.model.dtype=bfloat16")
SMALL += ("--config.model.stage_sizes", "2", "--config.model.width=16", "--config.bn_group=32")


@pytest.mark.parametrize("first", [1, 7, 40, 400])
@pytest.mark.parametrize(
  "takes",
  [
    lambda n: 10 * n,
    lambda n: 300 + 7 * n,
    lambda n: 0.1 * n * n,
    lambda n: min(10 * n, 900) if n < 130 else 20 * n,  # as with things computed twice
    lambda n: 100 * np.sqrt(n),
  ],
)
@pytest.mark.parametrize("memory", [1, 999, 1000, 6000])
def test_the_largest_that_fits_is_found_with_few_tries(takes, memory, first):
  tried = []

  def attempt(number):
    assert number >= 1
    tried.append(number)
    return int(takes(number)) if takes(number) <= memory else None

  found = largest_fitting(attempt, memory, first)
  assert found == max((n for n in range(1, 4000) if takes(n) <= memory), default=0)
  assert len(tried) == len(set(tried)) <= 26


def test_memory_that_grows_evenly_takes_a_handful_of_tries():
  tried = []

  def attempt(number):
    tried.append(number)
    taken = 300_000 + 20_456 * number
    return taken if taken <= 16_000_000 else None

  assert largest_fitting(attempt, 16_000_000, 128) == 767
  assert len(tried) <= 5


@pytest.mark.parametrize(
  "name", ["v5e", "v9:2x2", "v5e:8", "v5e:8x", "v5e-64", "", "v5e:2x2x2", "v4:2x2"]
)
def test_a_topology_that_is_none_costs_a_message(name):
  with pytest.raises(UserError, match=r"--topology .*: give v2, v3.* such as v5e:8x8"):
    describe_slice(name)


def test_a_missing_compiler_costs_a_message(monkeypatch):
  monkeypatch.setattr(tpu_slice.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r'pip install "resnet_jax\[tpu\]"'):
    describe_slice("v5e:2x2")


def test_the_topology_has_to_be_given(capsys):
  with pytest.raises(SystemExit) as ended:
    cli.main(["benchmark", "compile", "--config", "digits"])
  assert ended.value.code == 2
  assert "--topology" in capsys.readouterr().err


def small_run(*overrides):
  config = override_config(
    load_config("cifar10:resnet20", Config), [*SMALL[2:], *overrides], "test"
  )
  return build_run(config, dataset=blank_dataset(config.data, config.seed))


def test_the_peer_is_the_same_step_with_nothing_but_stock_layers_of_flax():
  run = with_flax_network(small_run())
  split = run.dataset.splits["train"]
  batch = {
    name: np.zeros((32, *array.shape[1:]), array.dtype) for name, array in one(split).items()
  }
  step = make_step(split.view, run.model, run.optimizer)
  kinds = set()

  def record(function, args, kwargs, context):
    if context.method_name == "__call__":
      kinds.add(type(context.module))
    return function(*args, **kwargs)

  state = state_shapes(run)
  with nn.intercept_methods(record):
    after, _ = jax.eval_shape(step, state, split.constants, batch, run.key)
  assert {kind for kind in kinds if not kind.__module__.startswith("flax.")} == {
    type(run.model),
    FlaxBlock,
  }
  assert {nn.Conv, nn.BatchNorm, nn.Dense} <= kinds
  assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)


def one(split):
  return split.fetch(np.zeros(1, np.int32), np.zeros(1, np.int32))


@pytest.mark.parametrize(
  ("field", "message"),
  [
    ("squeeze_excitation=4", r"has 10,274 parameters and its plain Flax counterpart 9,978"),
    ("shortcut=C", "the peers have no counterpart of"),
  ],
)
def test_a_network_without_a_counterpart_in_plain_flax_is_refused(field, message):
  run = small_run(f"--config.model.{field}")
  with pytest.raises(UserError, match=message):
    with_flax_network(run)


def compiled(*arguments, status=0) -> dict | str:
  """The last line of the command, in a process of its own: it changes its environment."""
  pytest.importorskip("libtpu", reason="the TPU's compiler is not installed: resnet_jax[tpu]")
  done = subprocess.run(
    [sys.executable, "-m", "resnet_jax", "benchmark", "compile", *map(str, arguments)],
    env=os.environ | {"XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status, done.stderr
  return json.loads(done.stdout.splitlines()[-1]) if status == 0 else done.stderr


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["pmap", "shard_map"])
def test_a_small_step_exchanges_its_gradient_once_and_says_what_it_takes(parallel):
  step = compiled(
    *("--topology", "v5e:2x2", *SMALL, f"--config.parallel={parallel}"),
    *("--no-search", "--json-only"),
  )
  assert (step["devices"], step["hosts"], step["batch_per_device"]) == (4, 1, 32)
  assert step["fits"] is True
  (exchange,) = step["collectives"]
  # All gradients, the running statistics and the sums of the metrics, float32.
  assert (exchange["kind"], exchange["count"]) == ("all-reduce", 1)
  parameters = 3 * 9 * 16 + 4 * 16 * 16 * 9 + 5 * 2 * 16 + 16 * 10 + 10
  assert exchange["bytes"] == 4 * (parameters + 5 * 2 * 16 + 4)
  macs = 32 * 32 * 16 * 9 * (3 + 4 * 16)
  assert 0.9 < step["flops"] / (2 * 3 * 32 * macs) < 1.2
  assert step["memory_bytes"] < step["device_memory_bytes"] == 2**34
  assert set(step["layouts"]) == {"unrolled", "scanned"}
  assert all(layout["compile_seconds"] > 0 for layout in step["layouts"].values())
  assert step["largest_batch_size"] is None


@pytest.mark.long
def test_a_step_with_a_plain_flax_network_is_compiled_for_comparison():
  step = compiled(
    *("--topology", "v5e:2x2", *SMALL, "--config.bn_group=32", "--config.batch_size=128"),
    *("--no-search", "--one-layout", "--json-only", "--peer=flax"),
  )
  flax = step["flax"]
  assert flax["fits"] is True
  assert flax["flops"] == pytest.approx(step["flops"], rel=0.1)
  assert flax["bytes_accessed"] == pytest.approx(step["bytes_accessed"], rel=0.5)
  assert flax["bytes_accessed"] != step["bytes_accessed"]
  assert flax["temporary_bytes"] > 0
  (exchange,) = flax["collectives"]
  # The gradient and the sums of the metrics; each device keeps its own running statistics.
  statistics = 4 * 5 * 2 * 16
  assert exchange["bytes"] == step["collectives"][0]["bytes"] - statistics


@pytest.mark.long
def test_what_does_not_fit_is_said_and_the_largest_that_does_is_found():
  step = compiled(
    *("--topology", "v6e:1x1", *SMALL, "--one-layout", "--config.batch_size=262144"),
  )
  assert step["fits"] is False
  assert step["collectives"] is None
  assert 0 < step["largest_batch_size"] < 262144
  assert step["largest_batch_size"] == step["largest_batch_per_device"]
  assert step["largest_batch_per_device"] % 32 == 0


def test_a_slice_that_the_compiler_does_not_know_costs_a_message():
  said = compiled("--topology", "v5e:3x5", *SMALL, status=2)
  assert "--topology v5e:3x5 cannot be described" in said
  assert "Traceback" not in said


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["pmap", "shard_map"])
@pytest.mark.parametrize("topology", ["v5e:8x8", "v5e:16x16"])
def test_resnet50_exchanges_its_gradient_once(topology, parallel):
  side = int(topology.partition("x")[2])
  step = compiled(
    *("--topology", topology, "--config", "imagenet:resnet50", f"--config.parallel={parallel}"),
    *("--config.model.dtype=bfloat16", f"--config.batch_size={128 * side * side}"),
    *("--no-search", "--one-layout"),
  )
  (exchange,) = step["collectives"]
  assert (exchange["kind"], exchange["count"]) == ("all-reduce", 1)
  assert exchange["bytes"] == pytest.approx(4 * 25_557_032, rel=0.01)
  assert step["fits"] is True
