"""The figures of the benchmark beside PyTorch and Flax, from the answers of all rounds."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnet_jax.benchmarks.peers.task import PeerTask

OURS = "ours"

# What is the same in each of a side's processes, and what is measured in each of them.
_FACTS = ("platform", "devices", "parameters")
_LARGEST = ("peak_memory_bytes",)
_MEDIANS = ("setup_seconds", "first_step_seconds", "first_loss", "last_loss")

Round = Mapping[str, Mapping[str, Any]]


def summarize(task: PeerTask, rounds: Sequence[Round]) -> dict[str, Any]:
  """The figures of one network and mode.

  Args:
    task: What was measured.
    rounds: By side the answer to its measurement, of every round in every process.

  Returns:
    `sides`, the figures of each; `ratio_to_SIDE`, the median over the rounds of ours over theirs,
    in which cancels what slows a whole round; each with its `_range`.
  """
  # A side may have failed to start in one of its processes.
  names = [name for name in rounds[0] if all(name in its for its in rounds)]
  rates = {name: [its[name]["images"] / its[name]["seconds"] for its in rounds] for name in names}
  sides = {}
  for name in names:
    answers = [its[name] for its in rounds]
    sides[name] = _spread("images_per_second", rates[name])
    sides[name] |= {key: answers[0][key] for key in _FACTS}
    sides[name] |= {key: max(answer[key] for answer in answers) for key in _LARGEST}
    sides[name] |= {key: _median([answer[key] for answer in answers]) for key in _MEDIANS}
  result: dict[str, Any] = {
    "network": task.network,
    "mode": task.mode,
    "batch_size": task.batch_size,
    "image_size": task.image_size,
    "sides": sides,
  }
  if OURS in names:
    for name in names:
      if name != OURS:
        pairs = zip(rates[OURS], rates[name], strict=True)
        result |= _spread(f"ratio_to_{name}", [ours / theirs for ours, theirs in pairs])
  return result


def table(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Lines of text with a row for each network, mode and side."""
  yield (
    f"{'network, mode':22}{'side':15}{'images/s':>9}{'(range)':>20}{'ours is':>9}{'(range)':>16}"
    f"{'memory':>10}{'1st step':>10}"
  )
  for result in results:
    title = f"{result['network']}, {result['mode']}"
    for name, side in result["sides"].items():
      low, high = side["images_per_second_range"]
      row = f"{title:22}{name:15}{side['images_per_second']:9.1f}{f'({low:.1f} to {high:.1f})':>20}"
      if ratio := result.get(f"ratio_to_{name}"):
        low, high = result[f"ratio_to_{name}_range"]
        row += f"{ratio:8.2f}x{f'({low:.2f} to {high:.2f})':>16}"
      else:
        row += " " * 25
      memory, first = side["peak_memory_bytes"], side["first_step_seconds"]
      yield row + (f"{memory / 2**20:6.0f} MiB" if memory else " " * 10) + f"{first:8.1f} s"
      title = ""


def _spread(label: str, values: Sequence[float]) -> dict[str, Any]:
  return {label: statistics.median(values), f"{label}_range": [min(values), max(values)]}


def _median(values: Sequence[float | None]) -> float | None:
  present = [value for value in values if value is not None]
  return statistics.median(present) if present else None
