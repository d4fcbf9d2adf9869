"""Our side: the training step as `resnet-jax train` compiles it, and the step of `evaluate`."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from resnet_jax import devices
from resnet_jax.benchmarks.peers.jax_device import device_facts, parameter_count
from resnet_jax.benchmarks.peers.repeated import repeat
from resnet_jax.benchmarks.peers.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, PeerTask
from resnet_jax.benchmarks.work import Work
from resnet_jax.data.config import DataConfig, SyntheticConfig
from resnet_jax.evaluation.metrics import MetricSums
from resnet_jax.evaluation.scores import make_score_step, view_scorer
from resnet_jax.models import fold_batch_norm
from resnet_jax.models.config import ModelConfig
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import Config, OptimizerConfig
from resnet_jax.training.loop import compile_step
from resnet_jax.training.restore import initial_state


def work(task: PeerTask) -> Work:
  """Builds training or inference of one batch, over all devices of this process."""
  return _inference(task, folds=False) if task.mode == "inference" else _training(task)


def folded(task: PeerTask) -> Work:
  """Builds inference by the network with batch norms folded into the convolutions."""
  return _inference(task, folds=True)


def _training(task: PeerTask) -> Work:
  begun = time.perf_counter()
  run = build(task)
  state, batch, key, facts = _placed(task, run, begun)
  step = compile_step(run)

  def launch() -> MetricSums:
    nonlocal state
    state, sums = step(state, {}, batch, key)
    return sums

  def loss(sums: MetricSums) -> float:
    if sums.weight != task.batch_size:
      raise RuntimeError(f"a step used {sums.weight:.0f} of {task.batch_size} images")
    return float(sums.loss / sums.weight)

  return repeat(
    launch=launch,
    wait=jax.block_until_ready,
    loss=loss,
    images=task.batch_size,
    facts=facts,
    device_memory=devices.peak_memory,
    settle=lambda: jax.block_until_ready(state),
  )


def _inference(task: PeerTask, folds: bool) -> Work:
  begun = time.perf_counter()
  run = build(task)
  state, batch, key, facts = _placed(task, run, begun)
  model, variables = run.model, state.variables
  if folds:
    model, variables = fold_batch_norm(model, variables)
    variables = devices.replicate(variables)
  score = make_score_step(_view, view_scorer(model), devices.AXIS)
  classify = run.parallelize(score, batch_argument=2, arguments=4)

  def loss(scored: Any) -> None:
    if len(scored["scores"]) != task.batch_size:
      raise RuntimeError(f"a step used {len(scored['scores'])} of {task.batch_size} images")

  return repeat(
    launch=lambda: classify(variables, {}, batch, key),
    wait=jax.block_until_ready,
    loss=loss,
    images=task.batch_size,
    facts=facts,
    device_memory=devices.peak_memory,
  )


def _placed(task: PeerTask, run: Run, begun: float) -> tuple[Any, Any, Any, dict[str, Any]]:
  """Returns state, batch and key on all devices, and the facts that the side reports."""
  state, batch, key = initial_state(run), devices.shard(_batch(task)), devices.replicate(run.key)
  jax.block_until_ready((state, batch))
  facts = device_facts(jax.devices()) | {
    "parameters": parameter_count(state.params),
    "setup_seconds": time.perf_counter() - begun,
  }
  return state, batch, key, facts


def build(task: PeerTask) -> Run:
  """Builds the run whose step is measured, with a training view that returns the batch as it is."""
  overrides: dict[str, Any] = {"dtype": task.dtype}
  if task.bottleneck:
    overrides["stride_in"] = "3x3"
  if not task.cifar:
    overrides["pool_padding"] = (1, 1)
  synthetic = SyntheticConfig(
    train_examples=task.batch_size,
    validation_examples=1,
    image_size=task.image_size,
    num_classes=task.num_classes,
  )
  config = Config(
    model=ModelConfig(task.network, overrides),
    data=DataConfig(dataset="synthetic", held_out=0, synthetic=synthetic),
    optimizer=OptimizerConfig(
      learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    ),
    batch_size=task.batch_size,
  )
  run = build_run(config)
  train = dataclasses.replace(run.dataset.splits["train"], view=_view)
  dataset = dataclasses.replace(run.dataset, splits={"train": train})
  return dataclasses.replace(run, dataset=dataset)


def _view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the batch as it is, because no side decodes, normalises or augments."""
  del constants, key
  return batch["image"], batch["label"]


def _batch(task: PeerTask) -> dict[str, np.ndarray]:
  generator = np.random.default_rng(0)
  shape = (task.batch_size, task.image_size, task.image_size, 3)
  ones = np.ones(task.batch_size, np.float32)
  return {
    "image": generator.standard_normal(shape, np.float32),
    "label": generator.integers(0, task.num_classes, task.batch_size, np.int32),
    "example": np.arange(task.batch_size, dtype=np.int32),
    "weight": ones,
    "real": ones,
  }
