"""How long a training step takes, alone and with all that a run does beside it."""

import dataclasses
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from resnet_jax import devices
from resnet_jax.errors import UserError
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import Config, ProfileConfig
from resnet_jax.training.loop import compile_step, device_batches, fit
from resnet_jax.training.restore import initial_state
from resnet_jax.training.window import STEPS_IN_FLIGHT

_WARM_UP = 10  # steps, at least, before those that are timed


@dataclasses.dataclass(frozen=True)
class StepBenchmark:
  """What to measure.

  Attributes:
    config: The run, of which the length and all durations are replaced.
    steps: Steps of a turn.
    rounds: Turns of each side, which alternate.
    log_every: Steps between two records of the training metrics.
    save_every: Steps between two checkpoints.
  """

  config: Config
  steps: int = 100
  rounds: int = 5
  log_every: int = 10
  save_every: int = 50


def run_step_benchmark(benchmark: StepBenchmark, say: Callable[[str], None]) -> dict[str, Any]:
  """Times the compiled step alone, and within a run that records and saves.

  Args:
    benchmark: What to measure.
    say: Told how it goes, a line at a time.

  Returns:
    Medians over the rounds: `step_ms` of the step alone, `step_ms_in_run`, and `overhead`, the
    median of the rounds' shares by which the latter is longer; `images_per_second` in the run.

  Raises:
    UserError: The config is wrong, or a turn holds no checkpoint or does not end with a record.
  """
  if benchmark.save_every > benchmark.steps:
    raise UserError(
      f"a turn of {benchmark.steps} steps has no checkpoint: give more --steps, or a lower "
      "--save-every"
    )
  if benchmark.steps % benchmark.log_every:
    raise UserError(
      f"--steps {benchmark.steps} is no multiple of --log-every {benchmark.log_every}: a turn ends "
      "with a record"
    )
  run = _run(benchmark)
  say(
    f"{run.config.model.name}, {run.dataset.name}, {run.config.batch_size} images a step on "
    f"{jax.device_count()} x {jax.devices()[0].device_kind}; a record every "
    f"{benchmark.log_every} steps, a checkpoint every {benchmark.save_every}"
  )
  alone, within = [], []
  bare = _Bare(run)
  for number in range(benchmark.rounds):
    alone.append(bare(benchmark.steps))
    with tempfile.TemporaryDirectory(prefix="resnet_jax-benchmark-") as folder:
      within.append(_in_run(run, pathlib.Path(folder), _warm_up(benchmark), benchmark.steps))
    say(
      f"round {number + 1}: {1e3 * alone[-1]:.2f} ms alone, {1e3 * within[-1]:.2f} ms in a run "
      f"({within[-1] / alone[-1] - 1:+.1%})"
    )
  shares = [run_time / bare_time - 1 for run_time, bare_time in zip(within, alone, strict=True)]
  in_run = statistics.median(within)
  return {
    "model": run.config.model.name,
    "dtype": str(run.config.model.overrides.get("dtype", "float32")),
    "batch_size": run.config.batch_size,
    "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "step_ms": round(1e3 * statistics.median(alone), 3),
    "step_ms_in_run": round(1e3 * in_run, 3),
    "overhead": round(statistics.median(shares), 4),
    "images_per_second": round(run.config.batch_size / in_run, 1),
  }


def _warm_up(benchmark: StepBenchmark) -> int:
  """Steps before those that are timed: up to a record, for which the host waits for all of them."""
  return -(-_WARM_UP // benchmark.log_every) * benchmark.log_every


def _run(benchmark: StepBenchmark) -> Run:
  """The config's run with the benchmark's durations; it is stopped before it evaluates."""
  config, needed = benchmark.config, 2 * (benchmark.steps + _warm_up(benchmark))
  run = build_run(config)
  return build_run(
    dataclasses.replace(
      config,
      # Its schedule is that of the whole run, which is stopped.
      length=config.length if run.steps >= needed else f"{needed} steps",
      evaluate_every=f"{needed} steps",
      profile=ProfileConfig(),
      wandb_project=None,
      log_every=f"{benchmark.log_every} steps",
      checkpoint=dataclasses.replace(config.checkpoint, every=f"{benchmark.save_every} steps"),
    )
  )


class _Bare:
  """The compiled step fed by the run's own batches, and nothing else."""

  def __init__(self, run: Run):
    self._run = run
    self._step = compile_step(run)
    self._fixed = devices.replicate((run.dataset.splits["train"].constants, run.key))

  def __call__(self, steps: int) -> float:
    """Seconds a step."""
    constants, key = self._fixed
    state, batches, pending = initial_state(self._run), device_batches(self._run, 0), []
    begun = 0.0
    for number in range(_WARM_UP + steps):
      if number == _WARM_UP:
        jax.block_until_ready(state)
        begun = time.monotonic()
      state, sums = self._step(state, constants, next(batches), key)
      pending.append(sums)
      if len(pending) > STEPS_IN_FLIGHT:
        jax.block_until_ready(pending.pop(0))
    jax.block_until_ready(state)
    seconds = time.monotonic() - begun
    batches.close()
    return seconds / steps


def _in_run(run: Run, workdir: pathlib.Path, warm_up: int, steps: int) -> float:
  """Seconds a step within a whole run, records and checkpoints included."""
  times: dict[int, float] = {}

  def stop(step: int) -> bool:
    times[step] = time.monotonic()
    return step == warm_up + steps

  fit(run, workdir, should_stop=stop)
  return (times[warm_up + steps] - times[warm_up]) / steps
