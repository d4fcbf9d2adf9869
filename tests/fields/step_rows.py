"""The training step: the state and the records of a short run, against a training by hand."""

import dataclasses
import json
import re
from unittest import mock

import jax
import numpy as np
from optimizer_rows import names_of
from runs import BASE, new_folder
from table import Row, remembered, with_fields
from training_by_hand import positions, train_by_hand

from resnet_jax import devices, models
from resnet_jax.training import fit
from resnet_jax.training.build import build_run
from resnet_jax.training.loop import compile_step, device_batches
from resnet_jax.training.restore import initial_state, state_shapes

STEPS = 3
WIDE = {"model.overrides.dtype": "float64", "model.overrides.param_dtype": "float64"}
SHORT = WIDE | {"length": f"{STEPS} steps"}


@remembered
def trained(config):
  """The state of a run after its steps, and the losses that it recorded."""
  with jax.enable_x64(True):
    workdir = new_folder()
    state = jax.device_get(fit(build_run(config), workdir))
  train, validation = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return {
    "params": names_of(state.params),
    "batch_stats": names_of(state.batch_stats),
    "average": names_of(state.average),
    "loss": train["loss"],
    "validation": {name: value for name, value in validation.items() if name.endswith("loss")},
  }


def row(field, *values, **beside):
  def expect(value):
    return train_by_hand(with_fields(BASE, SHORT | beside | {field: value}), STEPS)

  # Pixels are normalised in float32, which compiled code rounds otherwise than NumPy: by 3e-8 of a
  # pixel, 5e-6 of a mean of batch norm near zero.
  return Row(field, values, trained, expect, SHORT | beside, rtol=1e-5)


# What says of itself what it is.


def images_at_a_time(config):
  """How many images a device shows to the network at a time in a training step."""
  run, shapes = build_run(config), set()
  split = run.dataset.splits["train"]

  def view(*arguments):
    images, labels = split.view(*arguments)
    shapes.add(len(images))
    return images, labels

  _trace(run, view)
  (size,) = shapes
  return size


def precisions(config):
  """The precisions of the products of a training step."""
  run = build_run(config)
  text = str(_trace(run, run.dataset.splits["train"].view))
  return set(re.findall(r"precision=(?:\(?Precision\.)?(\w+)", text))


def maps(config):
  """By which of JAX's functions a step is mapped over the devices."""
  with (
    mock.patch("jax.pmap", wraps=jax.pmap) as pmap,
    mock.patch("jax.shard_map", wraps=jax.shard_map) as shard_map,
  ):
    compile_step(build_run(config))
  return {"pmap": pmap.call_count, "shard_map": shard_map.call_count}


def _trace(run, view):
  """The program of a training step with such a view, which is not compiled."""
  split = dataclasses.replace(run.dataset.splits["train"], view=view)
  run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, splits={"train": split}))
  batches = device_batches(run, 0)
  batch = next(batches)
  batches.close()
  arguments = state_shapes(run), devices.replicate(split.constants), batch
  return jax.make_jaxpr(compile_step(run))(*arguments, devices.replicate(run.key))


def examples(config):
  """The examples of the first two batches, in the order of the stream."""
  run = build_run(config)
  batches = device_batches(run, 0)
  found = [np.asarray(next(batches)["example"]).ravel() for _ in range(2)]
  batches.close()
  return np.concatenate(found)


def first_weights(config):
  return names_of(jax.device_get(initial_state(build_run(config)).params))


def random_weights(seed):
  model = models.create("vgg16", **BASE.model.overrides, num_classes=3)
  return names_of(model.init(jax.random.key(seed), np.zeros((1, 4, 4, 3), np.float32))["params"])


def synthetic_pixels(config):
  return build_run(config).dataset.splits["train"].constants["images"].astype(float)


ROWS = (
  row("label_smoothing", 0.0, 0.3),
  row("ema_decay", None, 0.15),
  row("bn_group", None, 2),
  row("batch_size", 8, 16),
  Row("accumulate", (1, 2), images_at_a_time, {1: 2, 2: 1}.get, {"bn_group": 4}),
  Row("batch_size", (8, 16), images_at_a_time, {8: 2, 16: 4}.get),
  Row(
    "matmul_precision",
    ("bfloat16", "tensorfloat32", "float32"),
    precisions,
    {"bfloat16": {"DEFAULT"}, "tensorfloat32": {"HIGH"}, "float32": {"HIGHEST"}}.get,
  ),
  Row(
    "parallel",
    ("pmap", "shard_map"),
    maps,
    lambda chosen: {name: int(name == chosen) for name in ("pmap", "shard_map")},
  ),
  Row("seed", (0, 7), examples, lambda seed: positions(seed, 24, 16)),
  Row("seed", (0, 7), first_weights, random_weights),
  Row(
    "seed",
    (0, 7),
    synthetic_pixels,
    lambda seed: np.random.default_rng(seed).integers(0, 256, (24, 4, 4, 3), np.uint8),
  ),
)
