"""The training loop: step, record, evaluate, save, resume."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax import devices
from resnet_jax.data.dataset import fingerprint, require_same_data
from resnet_jax.data.feed import prefetch, training_batches
from resnet_jax.errors import UserError
from resnet_jax.evaluation.accuracy import Evaluator
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.config import to_json
from resnet_jax.run.records import Records
from resnet_jax.training.build import Run
from resnet_jax.training.progress import Progress
from resnet_jax.training.rates import last_rate, observe_validation
from resnet_jax.training.restore import abstract_state, from_stored, initial_state, to_stored
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_step
from resnet_jax.training.window import Window


def fit(
  run: Run, workdir: pathlib.Path, should_stop: Callable[[int], bool] = lambda step: False
) -> TrainState:
  """Trains, or goes on training from the last checkpoint that is whole.

  At each step that is due, in this order: the training metrics are recorded, the validation split
  is evaluated and recorded, the run is saved. So a checkpoint holds all that was recorded up to it.

  Args:
    run: What to train.
    workdir: The run's directory, held by this process alone.
    should_stop: Asked after each step, with the number of steps done; once true the run is saved
      and ends. Several processes have to be told so at the same step.

  Returns:
    The last state.

  Raises:
    UserError: A loss or a parameter is no longer finite, and what was saved before that stays; the
      checkpoint is of a run on other data; or no checkpoint is whole.
    OSError: Metrics could not be written, or not the last checkpoint of this call.
  """
  with contextlib.ExitStack() as stack:
    keep = run.config.checkpoint
    checkpoints = Checkpoints(workdir, keep.keep, keep.keep_best, keep.metric)
    stack.callback(checkpoints.close)
    restored = checkpoints.restore_newest(abstract_state(run))
    if restored is None:
      step, state, window = 0, initial_state(run), Window()
    else:
      step, stored, saved = restored
      state = from_stored(run, stored)
      require_same_data(run.dataset, saved["data"])
      window = Window(saved["window"])
    records = Records(workdir, step)
    stack.callback(records.close)
    progress = Progress(run.steps, step, run.config.batch_size)
    stack.callback(progress.close)
    if step:
      progress.say(f"resumed after step {step} of {run.steps}")

    constants, key = devices.replicate((run.dataset.splits["train"].constants, run.key))
    train_step = compile_step(run)
    data, largest = fingerprint(run.dataset), jax.jit(_largest)
    validate, observe = _validation(run), _plateau_rule(run)
    batches = device_batches(run, step)
    stack.callback(batches.close)

    while step < run.steps:
      state, sums = train_step(state, constants, next(batches), key)
      step += 1
      window.add(sums)
      progress.advance()
      ends = step == run.steps
      if ends or step % run.log_every == 0:
        _record_training(run, state, window, step, records, progress)
      metrics = None
      if validate and (ends or step % run.evaluate_every == 0):
        with window.pause():
          metrics = validate(state.variables)
        _require_finite(metrics["loss"], step)
        records.write(step, "validation", **metrics)
        progress.evaluation(step, "validation", metrics)
        # Not the one at the end of a run, which a longer run would not have there.
        if observe and step % run.evaluate_every == 0:
          state = observe(state, metrics)
      stopping = should_stop(step)
      if metrics or stopping or ends or step % run.checkpoint_every == 0:
        _require_finite(largest(state), step)
        with window.pause():
          rest = {
            "config": to_json(run.config),
            "position": step * run.config.batch_size,
            "window": window.sums(),
            "data": data,
          }
          checkpoints.save(step, to_stored(run, state), rest, metrics)
      if stopping:
        break
    checkpoints.wait()
  return state


def compile_step(run: Run) -> Callable[..., Any]:
  """The training step over all devices; its state is donated. Compiled at its first call."""
  config = run.config
  step = make_step(
    run.dataset.splits["train"].view,
    run.model,
    run.optimizer,
    devices.AXIS,
    accumulate=config.accumulate,
    label_smoothing=config.label_smoothing,
    ema_decay=config.ema_decay,
  )
  return run.parallelize(step, batch_argument=2, arguments=4, donate=True)


def _validation(run: Run) -> Evaluator | None:
  split = run.dataset.splits.get("validation")
  if split is None:
    return None
  size = run.config.evaluation_batch_size
  return Evaluator(run.model, split, size, run.key, run.parallelize)


def _plateau_rule(run: Run) -> Callable[[TrainState, dict[str, float]], TrainState] | None:
  """What an evaluation does to the learning rate, if the config's schedule looks at it."""
  schedule = run.config.schedule
  if schedule.kind != "plateau":
    return None
  rule, factor = schedule.plateau, schedule.factor
  changes = functools.partial(observe_validation, rule=rule, factor=factor)
  advance = jax.jit(changes, donate_argnums=0)  # else the velocity would be there twice

  def observe(state: TrainState, metrics: dict[str, float]) -> TrainState:
    value = metrics["loss"] if rule.metric == "loss" else 1 - metrics["accuracy"]
    return state.replace(opt_state=advance(state.opt_state, value))

  return observe


def device_batches(run: Run, step: int) -> Generator[dict[str, jax.Array], None, None]:
  """This host's batches from a step on, on its devices ahead of time."""
  split, config = run.dataset.splits["train"], run.config
  host, hosts = jax.process_index(), jax.process_count()
  stream = training_batches(
    split, config.seed, config.batch_size, step, host, hosts, config.accumulate
  )
  return prefetch(stream, functools.partial(devices.shard, parts=config.accumulate))


def _record_training(
  run: Run, state: TrainState, window: Window, step: int, records: Records, progress: Progress
) -> None:
  values, steps_per_second = window.close()
  _require_finite(values["loss"], step)
  if steps_per_second:
    values["images_per_second"] = steps_per_second * run.config.batch_size
  values["learning_rate"] = float(jax.device_get(last_rate(state.opt_state)))
  records.write(step, "train", **values)
  progress.train(step, values)


def _largest(state: TrainState) -> jax.Array:
  """The largest magnitude in the parameters and statistics: not finite if any of them is not."""
  return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(state.variables)]).max()


def _require_finite(value: float | jax.Array, step: int) -> None:
  if not math.isfinite(value):
    raise UserError(
      f"training diverged by step {step}: the loss or a parameter is not finite; checkpoints "
      "before it are kept. Try a lower --config.optimizer.learning_rate in a new --workdir"
    )
