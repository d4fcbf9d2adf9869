"""What the benchmark of the input makes of what its sides measured: by hand, for given turns."""

import json
import statistics

import pytest

from resnet_jax.benchmarks import input as input_benchmark
from resnet_jax.benchmarks.input import FLOORS, PEERS, InputBenchmark, run_input_benchmark
from resnet_jax.benchmarks.task import InputTask

TASK = InputTask("made", None, 24, 8, 2, 8, (8, 8), {})
# Images of each turn in 2 seconds and 4 seconds of CPU time: medians of ratios are not ratios of
# medians, and the faster floor is not faster in every round.
IMAGES = {
  "ours": (100, 400, 500),
  "stepping": (8, 8, 8),
  "one_thread": (60, 300, 500),
  "two_threads": (90, 570, 650),
  "floor_eager": (700, 500, 1000),
  "floor_tf_data": (900, 600, 400),
  "tf_data": (50, 400, 100),
  "tf_data_antialiased": (20, 100, 500),
  "torch": (10, 50, 20),
}
WAITED = (0.5, 1.5, 3.0)


class Side:
  """Gives what a side's process would have measured in turn."""

  def __init__(self, name: str):
    self.turns = iter(range(3))
    self.name, self.asked = name, []

  def measure(self, **arguments):
    self.asked.append(arguments)
    turn = next(self.turns)
    return {
      "images": IMAGES[self.name][turn],
      "steps": 5,
      "seconds": 2.0,
      "cpu_seconds": 4.0,
      "seconds_waited": WAITED[turn] * (1 if self.name == "stepping" else 10),
      "peak_growth": 1000 + turn + 10 * (self.name != "ours"),
    }


@pytest.fixture
def measured(monkeypatch):
  """The figures of a benchmark whose sides are made up; what each was asked for."""

  def run(**fields):
    names = ["ours"]
    names += ["stepping"] if fields.get("step_ms") else []
    names += ["one_thread", "two_threads"] if fields.get("scaling") else []
    names += PEERS if fields.get("peers") else []
    sides = {name: Side(name) for name in names}
    monkeypatch.setattr(input_benchmark, "_task", lambda benchmark: TASK)
    monkeypatch.setattr(input_benchmark, "_require_peers", lambda data: None)
    monkeypatch.setattr(input_benchmark, "_start", lambda *_: sides)
    said = []
    benchmark = InputBenchmark(data=None, batch_size=8, rounds=3, seconds=0.5, **fields)
    values = json.loads(json.dumps(run_input_benchmark(benchmark, said.append)))
    return values, {name: side.asked for name, side in sides.items()}, said

  return run


def test_rates_are_medians_of_the_rounds_with_their_range(measured):
  values, asked, _ = measured()
  assert values["images_per_second"] == 400 / 2
  assert values["images_per_second_range"] == [100 / 2, 500 / 2]
  assert values["images_per_cpu_second"] == 400 / 4
  assert values["images_per_cpu_second_range"] == [100 / 4, 500 / 4]
  assert values["peak_rss_growth_bytes"] == 1002
  assert asked == {"ours": 3 * [{"seconds": 0.5, "images": None, "step_seconds": 0}]}
  # Without a simulated step, how long the next batch is waited for.
  assert values["seconds_step_waits_for_input"] == 15 / 5


def test_the_wait_behind_a_step_is_that_of_the_side_that_steps(measured):
  values, asked, _ = measured(step_ms=120)
  assert values["seconds_step_waits_for_input"] == statistics.median(WAITED) / 5
  assert [one["step_seconds"] for one in asked["stepping"]] == [0.12] * 3
  assert [one["step_seconds"] for one in asked["ours"]] == [0] * 3


def test_the_scaling_is_the_median_of_two_threads_over_one(measured):
  values, _, _ = measured(scaling=True)
  assert values["scaling_1_to_2_threads"] == 90 / 60
  assert values["scaling_1_to_2_threads_range"] == [650 / 500, 570 / 300]


def test_the_decode_floor_is_the_faster_of_two_and_ratios_are_medians_of_the_rounds(measured):
  values, _, said = measured(peers=True)
  assert statistics.median(IMAGES["floor_eager"]) > statistics.median(IMAGES["floor_tf_data"])
  assert values["decode_floor"] == "floor_eager"
  for name in ("floor_eager", "tf_data", "tf_data_antialiased", "torch"):
    label = "ratio_to_" + ("decode_floor" if name in FLOORS else name)
    ratios = [ours / theirs for ours, theirs in zip(IMAGES["ours"], IMAGES[name], strict=True)]
    assert values[label] == pytest.approx(statistics.median(ratios))
    assert values[f"{label}_range"] == pytest.approx([min(ratios), max(ratios)])
  assert values["ratio_to_decode_floor"] == 0.5 != 400 / 700
  assert {n: v["images_per_second"] for n, v in values["peers"].items()} == {
    name: statistics.median(IMAGES[name]) / 2 for name in PEERS
  }
  (row,) = [line for line in said if line.startswith("torch DataLoader, Pillow")]
  assert row.split()[3:] == ["10.0", "5.0", "(2.5", "to", "12.5)", "10.00x"]
