"""What a run would take, known from its compiled step without a single step done."""

import json
import math
from typing import Any

import jax

from resnet_jax import devices, models
from resnet_jax.run.config import to_json
from resnet_jax.training.build import Run
from resnet_jax.training.collectives import Collective, collectives_of
from resnet_jax.training.description import aligned, start_rows
from resnet_jax.training.loop import compile_step, device_batches
from resnet_jax.training.restore import random_state


def describe_run(run: Run) -> str:
  """Compiles the training step and tells what it and the whole run take; trains nothing.

  Returns:
    The resolved config as JSON, and below it a table.
  """
  config, split = run.config, run.dataset.splits["train"]
  cost = models.cost(run.model, run.dataset.image_shape)
  state = random_state(run)
  batches = device_batches(run, 0)
  batch = next(batches)
  batches.close()
  constants = devices.replicate(split.constants)
  step: Any = compile_step(run)
  compiled = step.lower(state, constants, batch, devices.replicate(run.key)).compile()
  exchanged = collectives_of(compiled.as_text())
  memory = compiled.memory_analysis()
  saved = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  evaluations = "none: there is no validation split"
  if "validation" in run.dataset.splits:
    count = math.ceil(run.steps / run.evaluate_every)
    evaluations = f"{count:,}, every {run.evaluate_every:,} steps"
  keep = config.checkpoint
  best = f" and the {keep.keep_best} best by {keep.metric}" if keep.keep_best else ""
  start = start_rows(run)
  rows = start | {
    "model": f"{start['model']}, {cost.macs:,} multiply-adds a view",
    "exchanged a step": ", ".join(map(_exchange, exchanged)) or "nothing",
    "learning rate": run.learning_rate.words,
    "evaluations": evaluations,
    "checkpoint": f"{_size(saved)}, kept are the last {config.checkpoint.keep}{best}",
    "memory a device": f"{_size(memory.argument_size_in_bytes)} state and data, "
    f"{_size(memory.temp_size_in_bytes)} temporary",
  }
  return f"{json.dumps(to_json(config), indent=2)}\n\n{aligned(rows)}"


def _exchange(collective: Collective) -> str:
  return f"{collective.count:,} x {collective.kind}, {_size(collective.size)}"


def _size(count: int) -> str:
  """Bytes in a unit that leaves one to three digits before the point."""
  size, unit = float(count), "B"
  for larger in ("kB", "MB", "GB", "TB"):
    if size < 1000:
      break
    size, unit = size / 1000, larger
  return f"{size:.3g} {unit}"
