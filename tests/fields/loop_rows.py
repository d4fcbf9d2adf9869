"""What a run does when, and what is on disk behind it."""

import contextlib
import dataclasses
import functools
import importlib.machinery
import json
import sys
import types
from unittest import mock

import jax
from optimizer_rows import names_of
from runs import BASE, new_folder, scratch
from step_rows import first_weights, random_weights
from table import Row, remembered, with_fields

from resnet_jax.run.workdir import claim
from resnet_jax.training import fit
from resnet_jax.training.build import build_run
from resnet_jax.training.restore import initial_state
from resnet_jax.training.validation import make_validation

SIX = {"length": "6 steps"}
METRICS = ("accuracy", "loss", "ema_accuracy", "ema_loss", "top5_accuracy", "ema_top5_accuracy")
# A wild rate, so that the metrics differ in which step is the best.
UNSTEADY = SIX | {
  "evaluate_every": "1 steps",
  "optimizer.learning_rate": 2.0,
  "ema_decay": 0.3,
  "data.synthetic.num_classes": 7,
}


@remembered
def written(config):
  """The directory of a run that was trained."""
  workdir = new_folder()
  fit(build_run(config), workdir)
  return workdir


def records(config, split):
  lines = map(json.loads, (written(config) / "metrics.jsonl").read_text().splitlines())
  return [line for line in lines if line["split"] == split]


def recorded(config, split):
  return [line["step"] for line in records(config, split)]


def saved(config):
  folders = (written(config) / "checkpoints").iterdir()
  return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())


def best(metric, count):
  """The steps of the best values that an unsteady run recorded, of equal ones the later."""
  sign = -1 if metric.endswith("loss") else 1
  scores = [
    (sign * line[metric], line["step"])
    for line in records(with_fields(BASE, UNSTEADY), "validation")
  ]
  return [step for _, step in sorted(scores)[::-1][:count]]


def images_evaluated_at_a_time(config):
  """How many images a device shows to the network at a time in an evaluation."""
  run, shapes = build_run(config), set()
  split = run.dataset.splits["validation"]

  def view(*arguments):
    images, labels = split.view(*arguments)
    shapes.add(len(images))
    return images, labels

  splits = {**run.dataset.splits, "validation": dataclasses.replace(split, view=view)}
  run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, splits=splits))
  make_validation(run)(initial_state(run))
  (size,) = shapes
  return size


def profiled(config):
  """The steps, by the number done before, that a trace is taken of."""
  running, steps = [], []

  def annotation(name, step_num):
    steps.extend([step_num] if running else [])
    return contextlib.nullcontext()

  with (
    mock.patch("jax.profiler.start_trace", running.append),
    mock.patch("jax.profiler.stop_trace", running.clear),
    mock.patch("jax.profiler.StepTraceAnnotation", annotation),
  ):
    fit(build_run(config), new_folder())
  return steps


def projects(config):
  """The projects that are opened at Weights & Biases by a run."""
  opened = []

  def init(project, **rest):
    opened.append(project)
    return mock.Mock()

  wandb = types.ModuleType("wandb")
  wandb.init, wandb.__spec__ = init, importlib.machinery.ModuleSpec("wandb", None)
  with mock.patch.dict(sys.modules, wandb=wandb):
    fit(build_run(config), new_folder())
  return opened


# Initial weights.

OTHER = scratch() / "other"


@functools.cache
def other_weights():
  """The last weights of a run in the folder OTHER."""
  config = with_fields(BASE, {"seed": 5, "length": "2 steps"})
  OTHER.mkdir()
  claim(OTHER, config, ())
  state = fit(build_run(config), OTHER)
  return names_of(jax.device_get(state.params))


def after_reset(patterns):
  reset = {name for name in other_weights() if patterns and name.startswith("head/")}
  return {
    name: random_weights(0)[name] if name in reset else leaf
    for name, leaf in other_weights().items()
  }


ROWS = (
  Row(
    "length",
    ("6 steps", "1 epochs", "32 examples"),
    lambda config: recorded(config, "train"),
    {"6 steps": [6], "1 epochs": [3], "32 examples": [4]}.get,
  ),
  Row(
    "log_every",
    ("6 steps", "2 steps"),
    lambda config: recorded(config, "train"),
    {"6 steps": [6], "2 steps": [2, 4, 6]}.get,
    SIX,
  ),
  Row(
    "evaluate_every",
    ("6 steps", "4 steps"),
    lambda config: recorded(config, "validation"),
    {"6 steps": [6], "4 steps": [4, 6]}.get,
    SIX,
  ),
  Row("evaluation_batch_size", (8, 4), images_evaluated_at_a_time, {8: 2, 4: 1}.get),
  Row(
    "checkpoint.every",
    ("6 steps", "2 steps"),
    saved,
    {"6 steps": [6], "2 steps": [2, 4, 6]}.get,
    SIX,
  ),
  Row(
    "checkpoint.keep",
    (1, 3),
    saved,
    {1: [6], 3: [4, 5, 6]}.get,
    SIX | {"checkpoint.every": "1 steps", "checkpoint.keep_best": 0},
  ),
  Row(
    "checkpoint.keep_best",
    (0, 3),
    saved,
    lambda count: sorted({6, *best("accuracy", count)}),
    UNSTEADY | {"checkpoint.keep": 1},
  ),
  Row(
    "checkpoint.metric",
    METRICS,
    saved,
    lambda metric: sorted({6, *best(metric, 2)}),
    UNSTEADY | {"checkpoint.keep": 1, "checkpoint.keep_best": 2},
  ),
  Row(
    "profile.start",
    (None, "1 epochs"),
    profiled,
    {None: [], "1 epochs": [3, 4]}.get,
    SIX | {"profile.steps": 2},
  ),
  Row(
    "profile.steps",
    (5, 2),
    profiled,
    {5: [1, 2, 3, 4, 5], 2: [1, 2]}.get,
    SIX | {"profile.start": "1 steps"},
  ),
  Row(
    "wandb_project",
    (None, "residual"),
    projects,
    {None: [], "residual": ["residual"]}.get,
    {"length": "1 steps"},
  ),
  Row(
    "init_from",
    (None, str(OTHER)),
    first_weights,
    lambda source: other_weights() if source else random_weights(0),
  ),
  Row("reset", ((), ("head/*",)), first_weights, after_reset, {"init_from": str(OTHER)}),
)
