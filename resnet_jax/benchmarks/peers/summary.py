"""The figures of the benchmark beside PyTorch and Flax, from the answers of all rounds."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnet_jax.benchmarks.peers.task import PeerTask

OURS, OURS_FOLDED = "ours", "ours_folded"
# What a ratio is called by which of our sides is compared.
_RATIOS = {OURS: "ratio_to", OURS_FOLDED: "folded_ratio_to"}

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
    `sides`, the figures of each; `ratio_to_SIDE` and `folded_ratio_to_SIDE`, medians over the
    rounds of ours over theirs, in which cancels what slows a whole round; each with its `_range`.
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
  for mine, label in _RATIOS.items():
    for name in names if mine in names else ():
      if name not in _RATIOS:
        pairs = zip(rates[mine], rates[name], strict=True)
        result |= _spread(f"{label}_{name}", [ours / theirs for ours, theirs in pairs])
  return result


def table(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Lines of text with a row for each network, mode and side, and our ratios to each peer."""
  heads = "".join(f"{f'{name} is':>25}" for name in _RATIOS)
  columns = f"{'side':14}{'images/s':>9}{'(range)':>20}{'memory':>10}{'1st step':>11}"
  yield f"{'network, mode':22}{columns}{heads}"
  for result in results:
    title = f"{result['network']}, {result['mode']}"
    for name, side in result["sides"].items():
      memory = side["peak_memory_bytes"]
      yield (
        f"{title:22}{name:14}{_cell(side, 'images_per_second', '9.1f', 20)}"
        f"{f'{memory / 2**20:.0f} MiB' if memory else '':>10}{side['first_step_seconds']:9.1f} s"
        + "".join(_cell(result, f"{label}_{name}", "8.2f", 16, "x") for label in _RATIOS.values())
      ).rstrip()
      title = ""


def _cell(values: Mapping[str, Any], label: str, form: str, width: int, unit: str = "") -> str:
  """A median with its range; as wide where there is none."""
  if label not in values:
    return " " * (int(float(form.rstrip("f"))) + len(unit) + width)
  low, high = (f"{value:.{form[-2]}f}" for value in values[f"{label}_range"])
  return f"{values[label]:{form}}{unit}{f'({low} to {high})':>{width}}"


def _spread(label: str, values: Sequence[float]) -> dict[str, Any]:
  return {label: statistics.median(values), f"{label}_range": [min(values), max(values)]}


def _median(values: Sequence[float | None]) -> float | None:
  present = [value for value in values if value is not None]
  return statistics.median(present) if present else None
