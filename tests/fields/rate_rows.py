"""The learning rate: what the optimizer of a run holds at each of its steps."""

from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from table import Row

from resnet_jax.training import ScheduleConfig, WarmupConfig
from resnet_jax.training.build import build_run
from resnet_jax.training.rates import last_rate
from resnet_jax.training.state import TrainState
from resnet_jax.training.validation import make_plateau_rule

RATE, STEPS = 0.1, np.arange(12)  # those of the run that is varied
# What the training and the validation of each step give; the step after it is the first to know.
ERRORS = (1.0, 0.9, 0.9, 0.7, 0.7, 0.6, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2)
LOSSES = (2.0, 1.9, 1.9, 1.88, 1.9, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5)
ACCURACIES = (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)


def rates(config):
  run = build_run(config)
  observe = make_plateau_rule(run)
  weights = {"w": jnp.ones(1)}
  opt_state, found = run.optimizer.init(weights), []
  for error, loss, accuracy in zip(ERRORS, LOSSES, ACCURACIES, strict=True):
    _, opt_state = run.optimizer.update(weights, opt_state, weights, error=error)
    found.append(float(last_rate(opt_state)))
    state = observe(
      TrainState(jnp.int32(0), {}, {}, opt_state), {"loss": loss, "accuracy": accuracy}
    )
    opt_state = jax.device_get(state.opt_state)
  return np.array(found)


# The formulas.


def constant(rate):
  return np.full(len(STEPS), rate)


def stepwise(boundaries, factor=0.1):
  return RATE * factor ** (STEPS[:, None] >= np.array(boundaries)).sum(1)


def left(start, end):
  return np.clip((end - STEPS) / (end - start), 0, 1)


def cosine(start=0, end=12, end_factor=0.0):
  return RATE * (end_factor + (1 - end_factor) * (1 - np.cos(np.pi * left(start, end))) / 2)


def polynomial(start=0, end=12, end_factor=0.0, power=1.0):
  return RATE * (end_factor + (1 - end_factor) * left(start, end) ** power)


def linear(length, factor=0.1):
  """What a linear warm-up multiplies the rate by."""
  return np.where(length > STEPS, factor + (1 - factor) * STEPS / length, 1)


def until_error(factor=0.1, error=0.8, latest=1.0):
  """What a warm-up multiplies the rate by whose end is a mean error over the latest steps."""
  average, shares = 1.0, []
  for found in ERRORS:
    if average >= error:
      average += (found - average) / latest
    shares.append(factor if average >= error else 1)
  return np.array(shares)


def plateau(
  values=None, patience=1, threshold=0.0, mode="relative", cooldown=0, minimum=0.0, factor=0.1
):
  """The rate of each step where a validation follows each."""
  values = [1 - accuracy for accuracy in ACCURACIES] if values is None else values
  share, best, bad, resting, shares = 1.0, np.inf, 0, 0, []
  for value in values:
    shares.append(share)
    better = value < (best * (1 - threshold) if mode == "relative" else best - threshold)
    best = value if better else best
    bad = 0 if better or resting else bad + 1
    resting = max(resting - 1, 0)
    if bad > patience:
      share, bad, resting = max(share * factor, minimum), 0, cooldown
  return RATE * np.array(shares)


KINDS = {
  "stepwise": stepwise((4,)),
  "plateau": plateau(patience=5, threshold=1e-3),
  "cosine": cosine(),
  "polynomial": polynomial(),
  "constant": constant(RATE),
}
# Those of the default length of 5 epochs of 3 steps, and of the default 2560 examples.
WARMUPS = {"none": np.ones(12), "linear": linear(15), "error": until_error(latest=320)}


def row(field, values, expect, **beside):
  beside = {f"schedule.{name.replace('__', '.')}": value for name, value in beside.items()}
  return Row(f"schedule.{field}", values, rates, expect, beside)


def plateau_row(field, values, expect, **beside):
  settings = {"plateau__patience": 1, "plateau__threshold": 0.0} | beside
  return row(field, values, expect, kind="plateau", **settings)


ROWS = (
  Row("optimizer.learning_rate", (0.1, 0.3), rates, constant),
  Row(
    "optimizer.learning_rate_batch",
    (None, 32),
    rates,
    lambda batch: constant(RATE * 8 / (batch or 8)),
  ),
  row(
    "kind",
    get_args(get_type_hints(ScheduleConfig)["kind"]),
    KINDS.__getitem__,
    boundaries=("4 steps",),
  ),
  row(
    "boundaries",
    (("4 steps",), ("1 epochs", "72 examples")),
    lambda names: stepwise({1: (4,), 2: (3, 9)}[len(names)]),
    kind="stepwise",
  ),
  row(
    "factor",
    (0.1, 0.5),
    lambda factor: stepwise((2, 6), factor),
    kind="stepwise",
    boundaries=("2 steps", "6 steps"),
  ),
  plateau_row("factor", (0.1, 0.5), lambda factor: plateau(factor=factor)),
  *(
    row("length", (None, "6 steps"), lambda end, f=formula: f(end=6 if end else 12), kind=kind)
    for kind, formula in (("cosine", cosine), ("polynomial", polynomial))
  ),
  *(
    row("end_factor", (0.0, 0.25), lambda share, f=formula: f(end_factor=share), kind=kind)
    for kind, formula in (("cosine", cosine), ("polynomial", polynomial))
  ),
  row("power", (1.0, 2.5), lambda power: polynomial(power=power), kind="polynomial"),
  Row(
    "schedule.warmup.kind",
    get_args(get_type_hints(WarmupConfig)["kind"]),
    rates,
    lambda kind: RATE * WARMUPS[kind],
    {"length": "60 steps"},
  ),
  *(
    row(
      "warmup.length",
      ("2 steps", "5 steps"),
      lambda length, f=formula: f(start=int(length[0])) * linear(int(length[0])),
      kind=kind,
      warmup__kind="linear",
    )
    for kind, formula in (("cosine", cosine), ("polynomial", polynomial))
  ),
  row(
    "warmup.factor",
    (0.1, 0.4),
    lambda factor: RATE * linear(5, factor),
    warmup__kind="linear",
    warmup__length="5 steps",
  ),
  row(
    "warmup.factor",
    (0.1, 0.4),
    lambda factor: RATE * until_error(factor),
    warmup__kind="error",
    warmup__error_examples=8,
  ),
  row(
    "warmup.error",
    (0.8, 0.5),
    lambda error: RATE * until_error(error=error),
    warmup__kind="error",
    warmup__error_examples=8,
  ),
  row(
    "warmup.error_examples",
    (8, 32),
    lambda examples: RATE * until_error(latest=examples / 8),
    warmup__kind="error",
  ),
  plateau_row(
    "plateau.metric",
    ("error", "loss"),
    lambda metric: plateau(LOSSES if metric == "loss" else None),
  ),
  plateau_row("plateau.patience", (1, 3), lambda patience: plateau(patience=patience)),
  plateau_row(
    "plateau.threshold",
    (0.0, 0.2),
    lambda threshold: plateau(threshold=threshold),
  ),
  plateau_row(
    "plateau.threshold_mode",
    ("relative", "absolute"),
    lambda mode: plateau(LOSSES, threshold=0.3, mode=mode),
    plateau__threshold=0.3,
    plateau__metric="loss",
  ),
  plateau_row(
    "plateau.cooldown",
    (0, 3),
    lambda cooldown: plateau(LOSSES, patience=0, cooldown=cooldown),
    plateau__patience=0,
    plateau__metric="loss",
  ),
  plateau_row(
    "plateau.minimum",
    (0.0, 0.03),
    lambda minimum: plateau(LOSSES, patience=0, minimum=minimum),
    plateau__patience=0,
    plateau__metric="loss",
  ),
)
