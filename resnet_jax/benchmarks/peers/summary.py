"""Figures and table of the comparison with PyTorch and Flax."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnet_jax.benchmarks.peers.task import PeerTask

OURS, OURS_FOLDED = "ours", "ours_folded"
# The name of a ratio, for each of our sides.
_RATIOS = {OURS: "ratio_to", OURS_FOLDED: "folded_ratio_to"}

# Values that are equal in all processes of a side, and how to combine those that are not.
_FACTS = ("platform", "devices", "parameters")
_LARGEST = ("peak_memory_bytes",)
_MEDIANS = ("setup_seconds", "first_step_seconds", "first_loss", "last_loss")

Round = Mapping[str, Mapping[str, Any]]


def summarize(task: PeerTask, rounds: Sequence[Round]) -> dict[str, Any]:
  """Summarises the rounds of one network and mode.

  Args:
    task: What was measured.
    rounds: The sides' measurements, of every round in every process.

  Returns:
    `sides`, the figures of each; `ratio_to_SIDE` and `folded_ratio_to_SIDE`, medians over the
    rounds of our rate over theirs, in which a slowdown of a whole round cancels; each with its
    `_range`.
  """
  # A side may have failed to start in one of its processes.
  names = [name for name in rounds[0] if all(name in measured for measured in rounds)]
  rates: dict[str, list[float]] = {}
  sides = {}
  for name in names:
    answers = [measured[name] for measured in rounds]
    rates[name] = [answer["images"] / answer["seconds"] for answer in answers]
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
  """Yields the lines of a table with a row for each network, mode and side."""
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
  """Formats a median with its range, or blanks of the same width if there is none."""
  if label not in values:
    return " " * (int(float(form.rstrip("f"))) + len(unit) + width)
  low, high = (f"{value:.{form[-2]}f}" for value in values[f"{label}_range"])
  return f"{values[label]:{form}}{unit}{f'({low} to {high})':>{width}}"


def _spread(label: str, values: Sequence[float]) -> dict[str, Any]:
  return {label: statistics.median(values), f"{label}_range": [min(values), max(values)]}


def _median(values: Sequence[float | None]) -> float | None:
  present = [value for value in values if value is not None]
  return statistics.median(present) if present else None
