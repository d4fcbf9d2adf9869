"""The training loop: step, record, evaluate, save, resume."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import devices, processes
from resnet_jax.data.dataset import fingerprint, require_same_data
from resnet_jax.data.feed import prefetch, training_batches
from resnet_jax.errors import UserError
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.config import to_json
from resnet_jax.training.build import Run
from resnet_jax.training.log import Log
from resnet_jax.training.profile import Profile
from resnet_jax.training.rates import last_rate
from resnet_jax.training.restore import abstract_state, from_stored, initial_state, to_stored
from resnet_jax.training.startup import StartUp, announce_first
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_step
from resnet_jax.training.stored_preprocessing import write_preprocessing
from resnet_jax.training.validation import make_plateau_rule, make_validation
from resnet_jax.training.window import Window


def fit(
  run: Run,
  workdir: pathlib.Path,
  should_stop: Callable[[int], bool] = lambda step: False,
  start: StartUp | None = None,
) -> TrainState:
  """Trains, or goes on training from the last checkpoint that is whole.

  At each step that is due, in this order: the training metrics are recorded, the validation split
  is evaluated and recorded, the run is saved. So a checkpoint holds all that was recorded up to it.

  Args:
    run: What to train.
    workdir: The run's directory, held by this process alone.
    should_stop: Asked after each step, with the number of steps done; once true the run is saved
      and ends. Several processes have to be told so at the same step.
    start: The phases of the start so far, printed after the first step.

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
    step, state, window = _start(run, workdir, checkpoints)
    log = Log(run, workdir, step)
    stack.callback(log.close)
    if step:
      log.say(f"resumed after step {step} of {run.steps}")

    constants, key = devices.replicate((run.dataset.splits["train"].constants, run.key))
    train_step = announce_first(compile_step(run), start or StartUp(), log.say)
    validate, observe = make_validation(run), make_plateau_rule(run)
    save = _saver(run, checkpoints, window, log)
    profile = Profile(workdir / "profile", run.profile_start, run.config.profile.steps)
    stack.callback(profile.close)
    batches = device_batches(run, step)
    stack.callback(batches.close)
    stack.push(processes.leave_in_time)
    # What goes between host and devices is said where it does: nothing else may.
    stack.enter_context(jax.transfer_guard("disallow"))

    while step < run.steps:
      batch = next(batches)
      if profile.turns(step):
        with window.pause():
          profile.turn()
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        state, sums = train_step(state, constants, batch, key)
      step += 1
      window.add(sums)
      log.advance()
      ends = step == run.steps
      if ends or step % run.log_every == 0:
        log.train(step, _training_values(run, state, window, step))
      metrics = None
      if validate and (ends or step % run.evaluate_every == 0):
        with window.pause():
          _require_no_divergence(jax.device_get(state.diverged))
          metrics = validate(state)
        for name, value in metrics.items():
          if not math.isfinite(value):
            raise _diverged(f"the validation {name.replace('_', ' ')}", step)
        log.evaluation(step, "validation", metrics)
        # Not after the one at the end of a run, which a longer run would not have there.
        if step % run.evaluate_every == 0:
          state = observe(state, metrics)
      stopping = should_stop(step)
      if metrics or stopping or ends or step % run.checkpoint_every == 0:
        save(step, state, metrics)
      if stopping:
        break
    checkpoints.wait()
  return state


def _start(
  run: Run, workdir: pathlib.Path, checkpoints: Checkpoints
) -> tuple[int, TrainState, Window]:
  """Number of steps done, the state after them, and the metrics since the last record of them."""
  restored = checkpoints.restore_newest(abstract_state(run))
  if restored is None:
    step, state, window = 0, initial_state(run), Window()
  else:
    step, stored, saved = restored
    require_same_data(run.dataset, saved["data"])
    state, window = from_stored(run, stored), Window(saved["window"])
  if processes.is_first():
    write_preprocessing(workdir, run.dataset)
  return step, state, window


def _saver(
  run: Run, checkpoints: Checkpoints, window: Window, log: Log
) -> Callable[[int, TrainState, dict[str, float] | None], None]:
  """`save(step, state, metrics)`: refuses a state that is not finite, so the one before stays."""
  data, largest = fingerprint(run.dataset), jax.jit(_largest)

  def save(step: int, state: TrainState, metrics: dict[str, float] | None) -> None:
    with window.pause():
      first, greatest = jax.device_get((state.diverged, largest(state)))
      _require_no_divergence(first)
      if not math.isfinite(greatest):
        raise _diverged("a statistic or the optimizer's state", step)
      log.sync()
      rest = {
        "config": to_json(run.config),
        "position": step * run.config.batch_size,
        "window": window.sums(),
        "data": data,
      }
      checkpoints.save(step, to_stored(run, state), rest, metrics)

  return save


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


def device_batches(run: Run, step: int) -> Generator[dict[str, jax.Array], None, None]:
  """This host's batches from a step on, on its devices ahead of time."""
  split, config = run.dataset.splits["train"], run.config
  host, hosts = jax.process_index(), jax.process_count()
  stream = training_batches(
    split, config.seed, config.batch_size, step, host, hosts, config.accumulate
  )
  return prefetch(stream, functools.partial(devices.shard, parts=config.accumulate))


def _training_values(run: Run, state: TrainState, window: Window, step: int) -> dict[str, float]:
  """What a record of the training says; the window begins anew."""
  values, steps_per_second = window.close()
  if not values["examples"]:
    raise UserError(f"none of the training examples before step {step} could be read")
  rate, first = jax.device_get((last_rate(state.opt_state), state.diverged))
  _require_no_divergence(first)
  if steps_per_second:
    values["images_per_second"] = steps_per_second * run.config.batch_size
  values["learning_rate"] = float(rate)
  if memory := devices.peak_memory():
    values["peak_memory_bytes"] = memory
  return values


def _largest(state: TrainState) -> jax.Array:
  """The largest magnitude in a state: not finite if any number in it is not."""
  leaves = jax.tree.leaves(state)
  return jnp.stack([jnp.abs(leaf).max().astype(float) for leaf in leaves if leaf.size]).max()


def _require_no_divergence(first: np.ndarray) -> None:
  """Raises a UserError unless the state has seen finite numbers alone."""
  if first:
    raise _diverged("the loss or a parameter", int(first))


def _diverged(what: str, step: int) -> UserError:
  """What ends a run whose numbers are no longer finite."""
  return UserError(
    f"training diverged at step {step}: {what} is not finite; checkpoints before it are kept. Try "
    "a lower --config.optimizer.learning_rate in a new --workdir"
  )
