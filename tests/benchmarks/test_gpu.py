"""What is checked and measured on a GPU, in sizes for a CPU."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from resnet_jax.benchmarks.gpu import rows
from resnet_jax.benchmarks.gpu.numbers import compare
from resnet_jax.benchmarks.gpu.seeds import SeedsBenchmark, run_seeds_benchmark

ARRAYS = {
  "step.0": np.array([3.0, -2.0]),
  "step.1": np.zeros((0, 4)),
  "data train.0": np.array([255.0, 1.0], np.float32),
  "network bfloat16 resnet18.0": np.array([1.0, 0.5], np.float32),
}


def files(folder, changed):
  paths = folder / "cpu.npz", folder / "gpu.npz"
  np.savez(paths[0], **ARRAYS)
  np.savez(paths[1], **(ARRAYS | changed))
  return paths


def wrong(folder, **changed):
  """The parts that differ by more than is allowed."""
  found = compare(*files(folder, changed))
  return [name for name, pair in found.items() if not rows.agree(pair)]


def test_numbers_that_are_the_same_agree(tmp_path):
  assert wrong(tmp_path) == []


@pytest.mark.parametrize(
  ("name", "array"),
  [
    ("step.0", np.array([3.0, -2.000001])),
    ("step.0", np.array([3.0, np.nan])),
    ("step.0", np.array([3.0, np.inf])),
    ("step.0", np.array([3.0, -2.0], np.float32)),
    ("step.1", np.zeros((0, 3))),
    ("data train.0", np.array([255.0, 1.01], np.float32)),
    ("network bfloat16 resnet18.0", np.array([1.0, 0.1], np.float32)),
  ],
)
def test_numbers_that_differ_do_not_agree(tmp_path, name, array):
  assert wrong(tmp_path, **{name: array}) == [name.rpartition(".")[0]]


def test_coarse_products_agree_within_wide_bounds(tmp_path):
  close = {"network bfloat16 resnet18.0": np.array([1.05, 0.5], np.float32)}
  assert wrong(tmp_path, **close) == []


def test_numbers_that_are_missing_are_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"step\.7"):
    compare(*files(tmp_path, {"step.7": np.zeros(1)}))


def test_a_program_that_fails_is_named_by_its_last_line(tmp_path):
  processes = rows.Processes(tmp_path / "log", time.monotonic() + 100)
  with pytest.raises(RuntimeError, match=r"^status 1: ImportError: .*nothing"):
    processes.call("matmul:nothing")
  assert "Traceback" in (tmp_path / "log").read_text()


def test_a_program_is_killed_when_the_time_is_up(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
  # The child imports a package that sleeps where it looks for ours.
  package = tmp_path / "resnet_jax"
  package.mkdir()
  (package / "__init__.py").write_text("print('sleeping', flush=True)\nimport time\ntime.sleep(60)")
  begun = time.monotonic()
  processes = rows.Processes(tmp_path / "log", begun + 1)
  with pytest.raises(TimeoutError, match="the last line was: sleeping"):
    processes.call("matmul:matmul_flops_per_second", 8)
  assert time.monotonic() - begun < 30


def test_a_row_that_fails_does_not_keep_the_next_back(tmp_path, monkeypatch, call_here):
  def fails(processes):
    raise RuntimeError("no such device")

  peer = {"images_per_second": 5.0, "images_per_second_range": [4.0, 6.0]}
  side = peer | {"peak_memory_bytes": 2**20, "first_step_seconds": 1.0, "share_of_matmul_rate": 0.5}
  result = {"network": "resnet50", "mode": "training", "sides": {"ours": side}}
  row = {"seeds": 2, "steps_per_dispatch": 50, "images_per_second": 9.0, "run_seconds": 7.0}
  row |= {"first_seconds": 3.0, "peak_memory_bytes": 2**20}
  monkeypatch.setattr(rows, "_numbers", fails)
  monkeypatch.setattr(
    rows, "_peers", lambda processes, plan: {"results": [result], "matmul_flops_per_second": 2e12}
  )
  monkeypatch.setattr(rows, "_seeds", lambda processes, plan: {"rows": [row]})
  status, output, _ = call_here("benchmark", "gpu", "--output", tmp_path / "gpu")
  values = json.loads(output.splitlines()[-1])
  assert status == 1
  assert values["numbers"]["error"] == "RuntimeError: no such device"
  assert json.loads((tmp_path / "gpu" / "gpu.json").read_text()) == values
  assert "of 2.0 TFLOP/s, the rate of a bfloat16 product: ours 50.0%" in output
  assert "resnet20,  2 seeds at once, 50 steps a dispatch:        9 images/s" in output


def test_no_row_begins_beyond_the_end(tmp_path, monkeypatch):
  left = []

  def row(processes, *_):
    left.append(processes.seconds_left())
    return {}

  for name in ("_numbers", "_peers", "_seeds"):
    monkeypatch.setattr(rows, name, row)
  rows.run_rows(rows.Plan(minutes=2, check_seconds=30), tmp_path, lambda line: None)
  assert 29 < left[0] <= 30
  assert 110 < left[1] <= 120


@pytest.mark.long
def test_several_seeds_at_once_see_the_same_images_as_one_alone():
  benchmark = SeedsBenchmark(counts=(1, 2), steps=2, seconds=0.01, examples=32, batch_size=4)
  result = run_seeds_benchmark(benchmark, lambda line: None)
  assert [(row["seeds"], row["steps_per_dispatch"]) for row in result["rows"]] == [
    (1, 1),
    (1, 2),
    (2, 2),
  ]
  for row in result["rows"]:
    assert row["images_per_second"] > 0


@pytest.mark.long
def test_the_rehearsal_needs_neither_tensorflow_nor_tyro_nor_pytorch(tmp_path):
  (tmp_path / "sitecustomize.py").write_text("""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(name, path=None, target=None):
  absent = name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "tyro", "torch")
  return None if absent else find(name, path, target)
PathFinder.find_spec = find_spec
""")
  environment = os.environ | {"PYTHONPATH": str(tmp_path), "XLA_FLAGS": "", "JAX_PLATFORMS": ""}
  output = tmp_path / "gpu"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "resnet_jax"),
      *("benchmark", "gpu", "--rehearse", "--output", output),
    ],
    check=False,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  values = json.loads(done.stdout.splitlines()[-1])
  assert values["numbers"]["compared"] > 15
  assert list(values["peers"]["results"][0]["sides"]) == ["ours", "flax"]
  assert [row["seeds"] for row in values["seeds"]["rows"]] == [1, 1, 2]
  assert {path.name for path in output.iterdir()} == {
    *("numbers.log", "peers.log", "seeds.log", "gpu.json")
  }
