"""Training several seeds of one small network at once: images a second of all together."""

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

# Of the paper's CIFAR runs (section 4.2).
_STEPS_OF_A_RUN = 64_000

# Relative difference of the first loss that rounding explains, in TensorFloat-32 too.
_SAME_LOSS = 0.02


@dataclasses.dataclass(frozen=True)
class SeedsBenchmark:
  """What is measured.

  Attributes:
    counts: How many seeds at once, one after another.
    steps: Steps in a dispatch, a loop on the device.
    seconds: How long each is measured.
    limit: Seconds after which nothing new is begun.
    examples: Training images of CIFAR's shape, on the device.
    batch_size: Images in a step of each seed.
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
  """Measures ResNet-20 with the paper's training view of images that are on the device.

  Returns:
    `rows`, one for a step at a time as `train` does it, then one for each number of seeds.

  Raises:
    RuntimeError: The ways do not train the same network on the same images.
  """
  end = time.monotonic() + benchmark.limit
  run = _run(benchmark)
  rows = []
  first_loss = None
  for row, loss in _rows(run, benchmark):
    first_loss = loss if first_loss is None else first_loss
    if not abs(loss / first_loss - 1) < _SAME_LOSS:
      raise RuntimeError(f"{row}: the first loss is {loss}, and of a step alone {first_loss}")
    rows.append(row)
    say(describe(row))
    if time.monotonic() > end:
      say("the time is up")
      break
  return {"network": "resnet20", "batch_size": benchmark.batch_size, "rows": rows}


def measure(fields: Mapping[str, Any]) -> dict[str, Any]:
  """`run_seeds_benchmark` with these fields of `SeedsBenchmark`; progress is printed."""
  return run_seeds_benchmark(SeedsBenchmark(**fields), functools.partial(print, flush=True))


def describe(row: Mapping[str, Any]) -> str:
  """A row of the result as a line."""
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
  """Each row with its first loss of seed 0."""
  yield _row(_one_step_at_a_time(run), 1, 1, benchmark)
  for count in benchmark.counts:
    yield _row(_at_once(run, count, benchmark.steps), count, benchmark.steps, benchmark)


def _row(
  dispatch: Callable[[], Any], seeds: int, steps: int, benchmark: SeedsBenchmark
) -> tuple[dict[str, Any], float]:
  """Times `dispatch`, which gives the sums of its steps: leaves (seeds, steps), or scalars."""
  begun = time.perf_counter()
  sums = jax.block_until_ready(dispatch())
  first = time.perf_counter() - begun
  seen = float(np.sum(sums.weight))
  if seen != seeds * steps * benchmark.batch_size:
    raise RuntimeError(f"{seeds} seeds, {steps} steps: {seen:.0f} images were seen")
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
  """As `train` does it."""
  state, batches, step = initial_state(run), device_batches(run, 0), compile_step(run)
  constants, key = devices.replicate((run.dataset.splits["train"].constants, run.key))

  def dispatch() -> Any:
    nonlocal state
    state, sums = step(state, constants, next(batches), key)
    return sums

  return dispatch


def _at_once(run: Run, count: int, steps: int) -> Callable[[], Any]:
  """Several seeds by `vmap`, several steps by `scan`; every seed has its own order and key."""
  split, config = run.dataset.splits["train"], run.config
  model = config.model.create(num_classes=run.dataset.num_classes)
  step = make_step(split.view, model, run.optimizer)
  keys = jax.vmap(jax.random.key)(jnp.arange(count))
  # Speed does not depend on the weights: all seeds start with those of seed 0.
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
