"""The speeds that runs and the benchmark of the step publish, of steps of a known length.

A callback within the compiled step sleeps on one of the four devices; the others wait for it where
gradients are summed. So a step takes at least as long, and the callback notes when each one ends:
what is published has to agree with that, however busy the machine is.
"""

import dataclasses
import itertools
import json
import time
import types

import jax
import numpy as np
import pytest
import tqdm

from resnet_jax import devices
from resnet_jax.benchmarks import step as step_benchmark
from resnet_jax.benchmarks.step import StepBenchmark, run_step_benchmark
from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.training import Config, fit, progress
from resnet_jax.training.build import build_run
from resnet_jax.training.window import STEPS_IN_FLIGHT

SECONDS = 0.08
BATCH = 16
CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
  data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8)),
  batch_size=BATCH,
  length="13 steps",
  log_every="4 steps",
  evaluate_every="100 steps",
)


@pytest.fixture
def ends() -> list[float]:
  """When the sleep of each step that was run has ended."""
  return []


def sleepy_run(config, ends):
  """A run whose training steps take `SECONDS` on one device, and next to nothing on the others."""
  run = build_run(config)
  train = run.dataset.splits["train"]

  def sleep(device):
    if device == 0:
      time.sleep(SECONDS)
      ends.append(time.monotonic())
    return np.float32(0)

  def view(constants, batch, key):
    images, labels = train.view(constants, batch, key)
    device = jax.lax.axis_index(devices.AXIS)
    # In the images, so that the step cannot go on without it.
    return images + jax.pure_callback(sleep, jax.ShapeDtypeStruct((), np.float32), device), labels

  splits = run.dataset.splits | {"train": dataclasses.replace(train, view=view)}
  return dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, splits=splits))


def test_the_images_a_second_of_a_run_are_those_of_all_devices_together(tmp_path, capfd, ends):
  assert jax.device_count() == 4
  fit(sleepy_run(CONFIG, ends), tmp_path)
  lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
  rates = [r["images_per_second"] for r in lines if r["split"] == "train"]
  # After 4, 8, 12 and 13 steps. The first step, which is compiled, counts for none; nor does what
  # is done between two windows, and so the rate may be above that of the clock, but for the first.
  clock = [BATCH * n / (ends[last] - ends[last - n]) for n, last in ((3, 3), (4, 7), (4, 11))]
  assert len(rates) == 4
  assert rates[0] == pytest.approx(clock[0], rel=0.2)
  assert all(rate >= 0.75 * least for rate, least in zip(rates, clock, strict=False)), clock
  assert all(rate <= 1.01 * BATCH / SECONDS for rate in rates)
  shown = [line for line in capfd.readouterr().out.splitlines() if "train loss" in line]
  assert [line.split("  ")[3] for line in shown] == [f"{rate:,.0f} images/s" for rate in rates]


def test_a_step_takes_as_long_as_it_sleeps_alone_and_in_a_run(monkeypatch, ends):
  monkeypatch.setattr(step_benchmark, "build_run", lambda config: sleepy_run(config, ends))
  monkeypatch.setattr(Checkpoints, "save", lambda *_: None)  # Which takes as long as a few steps.
  steps, warm_up = 4, 10
  assert steps <= STEPS_IN_FLIGHT  # Not waited for at the end, all of them would take no time.
  benchmark = StepBenchmark(CONFIG, steps=steps, rounds=2, log_every=2, save_every=2)
  said = []
  result = run_step_benchmark(benchmark, said.append)
  turns = np.reshape(ends, (2, 2, warm_up + steps))  # of each round, alone and in a run
  # One step more or less would be a quarter.
  alone, in_run = np.median(turns[..., -1] - turns[..., -1 - steps], 0) / steps * 1e3
  assert result["step_ms"] == pytest.approx(alone, rel=0.15)
  assert result["step_ms_in_run"] == pytest.approx(in_run, rel=0.15)
  assert result["images_per_second"] == pytest.approx(1e3 * BATCH / result["step_ms_in_run"], 1e-3)
  assert result["batch_size"] == BATCH
  assert result["devices"].startswith("4 x ")
  assert said[0].startswith(f"resnet20, synthetic, {BATCH} images a step on 4 x ")


def test_the_benchmark_gives_medians_of_the_rounds_and_of_their_ratios(monkeypatch):
  alone, within = iter([0.1, 0.2, 0.4]), iter([0.16, 0.21, 0.41])
  monkeypatch.setattr(step_benchmark, "_Bare", lambda run: lambda steps: next(alone))
  monkeypatch.setattr(step_benchmark, "_in_run", lambda *_: next(within))
  result = run_step_benchmark(StepBenchmark(CONFIG, 4, 3, 2, 2), lambda line: None)
  assert (result["step_ms"], result["step_ms_in_run"]) == (200, 210)
  # The shares are 0.6, 0.05 and 0.025: their median is not that of the medians' share by accident.
  assert result["overhead"] == 0.05
  assert result["images_per_second"] == round(BATCH / 0.21, 1)
  alone, within = iter([0.1, 0.2, 0.4]), iter([0.4, 0.1, 0.3])
  result = run_step_benchmark(StepBenchmark(CONFIG, 4, 3, 2, 2), lambda line: None)
  assert (result["step_ms"], result["step_ms_in_run"], result["overhead"]) == (200, 300, -0.25)


def test_the_time_that_is_left_and_the_bar_count_steps_and_images(monkeypatch, capsys):
  clock = itertools.count(100.0, 30.0)
  monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
  shown = progress.Progress(steps=110, done=10, batch_size=32)
  # 20 steps in 30 seconds: 80 more take 120.
  shown.train(30, {"loss": 1.5, "accuracy": 0.25, "images_per_second": 1234.4})
  assert capsys.readouterr().out == (
    "step 30/110  train loss 1.5000  accuracy 25.00%  1,234 images/s  "
    f"{tqdm.tqdm.format_interval(120)} left\n"
  )
  shown.close()
  monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
  bar = progress.Progress(steps=110, done=10, batch_size=32)
  bar.advance()
  assert (bar._bar.initial, bar._bar.n, bar._bar.total) == (320, 352, 3520)
  bar.close()
