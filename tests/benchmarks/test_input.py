"""The benchmark of the input pipeline. What it measures is looked at, how fast it is never."""

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from resnet_jax import cli
from resnet_jax.benchmarks import worker
from resnet_jax.benchmarks.input import PEERS, side
from resnet_jax.benchmarks.task import InputTask
from resnet_jax.benchmarks.work import Work
from resnet_jax.errors import UserError

FIGURES = {
  "images_per_second",
  "images_per_cpu_second",
  "seconds_step_waits_for_input",
  "peak_rss_growth_bytes",
  "cpu",
  "cores",
  "packages",
  "commit",
}
SMALL = ("--images", "8", "--rounds", "2", "--batch-size", "4", "--threads", "2")


@pytest.fixture
def benchmark(capsys):
  """Runs `resnet-jax benchmark ARGUMENTS`: exit status, lines of output, lines of errors."""

  def run(*arguments) -> tuple[int, list[str], list[str]]:
    with pytest.raises(SystemExit) as ended:
      cli.main(["benchmark", *arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out.splitlines(), captured.err.splitlines()

  return run


def reading(name: str, folder: pathlib.Path) -> tuple[str, ...]:
  return ("input", "--dataset", name, "--data-dir", str(folder), *SMALL)


def test_the_last_line_is_one_object_with_the_figures(noise_folder, benchmark):
  arguments = reading("folder", noise_folder)
  status, lines, _ = benchmark(
    *arguments, "--scaling", "--step-ms", "1", "--config.data.streaming.short_side_max=300"
  )
  values = json.loads(lines[-1])
  assert status == 0
  assert values.keys() >= FIGURES | {"scaling_1_to_2_threads", "scaling_1_to_2_threads_range"}
  assert not {"peers", "ratio_to_torch"} & values.keys()
  assert values["images_per_second"] > 0
  assert (values["examples"], values["batch_size"], values["rounds"]) == (12, 4, 2)
  assert values["packages"]["jax"]


@pytest.mark.long
def test_peers_are_measured_on_the_same_examples(noise_imagenet, benchmark):
  pytest.importorskip("torch", reason="PyTorch, one of the peers, is not installed")
  status, (line,), _ = benchmark(*reading("imagenet2012", noise_imagenet), "--peers", "--json-only")
  values = json.loads(line)
  assert status == 0
  assert values.keys() >= FIGURES
  assert values["peers"].keys() == set(PEERS)
  for name in ("decode_floor", "tf_data", "tf_data_antialiased", "torch"):
    low, high = values[f"ratio_to_{name}_range"]
    assert 0 < low <= values[f"ratio_to_{name}"] <= high
  assert values["packages"]["torch"]


@pytest.mark.parametrize(
  ("arguments", "word"),
  [
    (["input", "--dataset", "imagenet"], "imagenet2012"),
    (["input", "--dataset", "digits"], "decoded on the host"),
    (["input", "--dataset", "imagenet2012", "--data-dir", "W"], "resnet-jax prepare imagenet2012"),
    (["input", "--dataset", "digits", "--config.data.streaming.nope=1"], "nope"),
    (["input", "--dataset", "digits", "--config.batch_size=4"], "config.data.FIELD"),
    (["input", "--dataset", "digits", "--rounds", "0"], "positive integer"),
    (["input", "--dataset", "digits", "--seconds", "-1"], "positive number"),
    (["input", "--dataset", "digits", "--seconds", "1", "--images", "1"], "not allowed"),
    (["input"], "--dataset"),
    (["output"], "input"),
    ([], "PART"),
  ],
)
def test_a_mistake_costs_a_short_message_and_exit_code_2(arguments, word, tmp_path, benchmark):
  status, lines, errors = benchmark(*(str(tmp_path) if a == "W" else a for a in arguments))
  assert (status, lines) == (2, [])
  assert word in "\n".join(errors)
  assert len(errors) < 20


def test_a_missing_peer_says_which_extras_to_install(benchmark, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: name != "torch" or None)
  status, _, (error,) = benchmark("input", "--dataset", "digits", "--peers")
  assert status == 2
  assert error.endswith('torch, which is not installed: pip install "resnet_jax[tfds,torch]"')


def test_what_a_side_says_is_wrong_is_raised():
  ours = side("ours", InputTask("tiny", None, 1, 1, 1, 8, (8, 8), {"dataset": "tiny"}))
  with contextlib.closing(ours), pytest.raises(UserError, match="unknown data set 'tiny'"):
    ours.wait_until_ready()


def test_waiting_is_the_part_of_a_turn_that_the_steps_leave():
  def slow():
    while True:
      time.sleep(0.01)
      yield 2

  measured = worker.measure(Work(slow()), seconds=60, images=9, step_seconds=0.03)
  assert (measured.images, measured.steps) == (10, 5)
  assert measured.seconds >= 5 * 0.04
  assert 5 * 0.01 <= measured.seconds_waited <= measured.seconds - 5 * 0.03


def test_a_turn_is_whole_batches_and_the_first_batch_is_not_measured():
  given = iter([100, 3, 3, 3, 3])
  measured = worker.measure(Work(given), seconds=60, images=7)
  assert (measured.images, measured.steps) == (9, 3)
  assert next(given) == 3


def test_cpu_time_counts_living_children():
  code = """
import multiprocessing, time
from resnet_jax.benchmarks.costs import cpu_seconds
def burn(ready):
  start = time.process_time()
  while time.process_time() - start < 0.2: pass
  ready.set()
  time.sleep(60)
if __name__ == "__main__":
  context = multiprocessing.get_context("fork")
  ready = context.Event()
  child = context.Process(target=burn, args=(ready,), daemon=True)
  before, own = cpu_seconds(), time.process_time()
  child.start()
  ready.wait()
  assert cpu_seconds() - before - (time.process_time() - own) >= 0.2
"""
  if not sys.platform.startswith("linux"):
    pytest.skip("the CPU time of other processes needs Linux")
  subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=os.environ)
