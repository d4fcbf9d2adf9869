"""The benchmark of training several seeds of one small network at once."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import devices
from resnet_jax.data.config import DataConfig, SyntheticConfig
from resnet_jax.data.feed import training_batches
from resnet_jax.models.config import ModelConfig
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import Config
from resnet_jax.training.loop import compile_step, device_batches
from resnet_jax.training.restore import initial_state
from resnet_jax.training.step import make_step

# Steps of the paper's CIFAR runs (section 4.2).
_STEPS_OF_A_RUN = 64_000

# Relative tolerance of the first loss, wide enough for TensorFloat-32.
_LOSS_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class SeedsBenchmark:
  """Settings of the seeds benchmark.

  Attributes:
    counts: Numbers of simultaneous seeds to measure.
    steps: Steps per dispatch, in a loop on the device.
    seconds: Length of each measurement.
    limit: Seconds after which no further measurement begins.
    examples: Number of training images of CIFAR's shape, held on the device.
    batch_size: Images per step and seed.
  """

  counts: Sequence[int] = (1, 2, 4, 8, 16)
  steps: int = 50
  seconds: float = 4.0
  limit: float = 90.0
  examples: int = 50_000
  batch_size: int = 128


def run_seeds_benchmark(
  benchmark: SeedsBenchmark, say: Callable[[str], None] = print
) -> dict[str, Any]:
  """Measures training of ResNet-20 with the paper's augmentation of images held on the device.

  Returns:
    `rows`: one for single steps as in `train`, then one for each number of seeds.

  Raises:
    RuntimeError: The rows do not train the same network on the same images.
  """
  end = time.monotonic() + benchmark.limit
  run = _run(benchmark)
  rows = []
  first_loss = None
  for row, loss in _rows(run, benchmark):
    first_loss = loss if first_loss is None else first_loss
    if not abs(loss / first_loss - 1) < _LOSS_TOLERANCE:
      raise RuntimeError(f"{row}: the first loss is {loss}, but {first_loss} in a single step")
    rows.append(row)
    say(describe(row))
    if time.monotonic() > end:
      say("out of time")
      break
  return {"network": "resnet20", "batch_size": benchmark.batch_size, "rows": rows}


def measure(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Runs the benchmark with some fields of `SeedsBenchmark` and prints progress."""
  return run_seeds_benchmark(SeedsBenchmark(**fields), functools.partial(print, flush=True))


def describe(row: Mapping[str, Any]) -> str:
  """Formats a row of the result as a line."""
  return (
    f"resnet20, {row['seeds']:2d} seeds at once, {row['steps_per_dispatch']:2d} steps a dispatch: "
    f"{row['images_per_second']:8.0f} images/s, {row['run_seconds']:6.0f} s for {_STEPS_OF_A_RUN} "
    f"steps of all, first dispatch {row['first_seconds']:.1f} s, "
    f"{row['peak_memory_bytes'] / 2**20:.0f} MiB"
  )


def _run(benchmark: SeedsBenchmark) -> Run:
  synthetic = SyntheticConfig(train_examples=benchmark.examples, validation_examples=1)
  return build_run(
    Config(
      model=ModelConfig("resnet20"),
      data=DataConfig(dataset="synthetic", held_out=0, synthetic=synthetic),
      batch_size=benchmark.batch_size,
    )
  )


def _rows(run: Run, benchmark: SeedsBenchmark) -> Iterator[tuple[dict[str, Any], float]]:
  """Yields each row, and the first loss of its seed 0."""
  yield _row(_one_step_at_a_time(run), 1, 1, benchmark)
  for count in benchmark.counts:
    yield _row(_at_once(run, count, benchmark.steps), count, benchmark.steps, benchmark)


def _row(
  dispatch: Callable[[], Any], seeds: int, steps: int, benchmark: SeedsBenchmark
) -> tuple[dict[str, Any], float]:
  """Times `dispatch`, which returns metric sums with leaves (seeds, steps), or scalars."""
  begun = time.perf_counter()
  sums = jax.block_until_ready(dispatch())
  first = time.perf_counter() - begun
  seen = float(np.sum(sums.weight))
  if seen != seeds * steps * benchmark.batch_size:
    raise RuntimeError(f"{seeds} seeds and {steps} steps used {seen:.0f} images")
  loss = float(np.ravel(sums.loss)[0]) / benchmark.batch_size
  done, running = 0, jax.block_until_ready(dispatch())
  begun = time.perf_counter()
  while time.perf_counter() - begun < benchmark.seconds:
    following = dispatch()
    jax.block_until_ready(running)
    running = following
    done += 1
  jax.block_until_ready(running)
  rate = done * seeds * steps * benchmark.batch_size / (time.perf_counter() - begun)
  return {
    "seeds": seeds,
    "steps_per_dispatch": steps,
    "images_per_second": rate,
    "run_seconds": _STEPS_OF_A_RUN * benchmark.batch_size * seeds / rate,
    "first_seconds": first,
    "peak_memory_bytes": devices.peak_memory(),
  }, loss


def _one_step_at_a_time(run: Run) -> Callable[[], Any]:
  """Returns a function that dispatches one step, as `train` does."""
  state, batches, step = initial_state(run), device_batches(run, 0), compile_step(run)
  constants, key = devices.replicate((run.dataset.splits["train"].constants, run.key))

  def dispatch() -> Any:
    nonlocal state
    state, sums = step(state, constants, next(batches), key)
    return sums

  return dispatch


def _at_once(run: Run, count: int, steps: int) -> Callable[[], Any]:
  """Returns a function that dispatches several seeds (`vmap`) and steps (`scan`).

  Each seed has its own order of examples and its own key.
  """
  split, config = run.dataset.splits["train"], run.config
  model = config.model.create(num_classes=run.dataset.num_classes)
  step = make_step(split.view, model, run.optimizer)
  keys = jax.vmap(jax.random.key)(jnp.arange(count))
  # All seeds start with the weights of seed 0, because speed does not depend on them.
  states = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), initial_state(run))
  streams = [training_batches(split, seed, config.batch_size, 0) for seed in range(count)]

  def several(state: Any, constants: Any, batches: Any, key: jax.Array) -> Any:
    return jax.lax.scan(lambda state, batch: step(state, constants, batch, key), state, batches)

  train = jax.jit(jax.vmap(several, in_axes=(0, None, 0, 0)), donate_argnums=0)
  constants = jax.device_put(split.constants)

  def dispatch() -> Any:
    nonlocal states
    drawn = [[next(stream) for _ in range(steps)] for stream in streams]
    batches = {
      name: np.stack([[batch[name] for batch in of_seed] for of_seed in drawn])
      for name in drawn[0][0]
    }
    states, sums = train(states, constants, batches, keys)
    return sums

  return dispatch
