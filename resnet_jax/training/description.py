"""The summary of a run that `train` prints."""

import math
from collections.abc import Mapping

import jax

from resnet_jax.training.build import Run


def start_rows(run: Run) -> dict[str, str]:
  """Summarises a run before anything is computed: names and texts of the rows."""
  config, count = run.config, jax.device_count()
  params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.variables["params"]))
  sizes = (f"{split.size:,} {name}" for name, split in run.dataset.splits.items())
  examples = run.steps * config.batch_size
  epochs = examples / run.dataset.splits["train"].size
  return {
    "model": f"{config.model.name}, {params:,} parameters",
    "data": f"{run.dataset.name}, {', '.join(sizes)}",
    "devices": f"{count} x {jax.devices()[0].device_kind}",
    "batch": f"{config.batch_size:,} examples, {config.batch_size // count:,} a device",
    "length": f"{run.steps:,} steps, {examples:,} examples, {epochs:.1f} epochs",
  }


def aligned(rows: Mapping[str, str]) -> str:
  """Formats names and values as a table, one row per line."""
  width = max(map(len, rows))
  return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
