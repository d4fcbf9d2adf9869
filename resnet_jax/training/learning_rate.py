"""From a config to its learning rate over time, with everything checked."""

import dataclasses
from collections.abc import Callable

import optax

from resnet_jax.errors import UserError
from resnet_jax.run.config import differences
from resnet_jax.training import schedules
from resnet_jax.training.config import Config, ScheduleConfig
from resnet_jax.training.rates import ErrorWarmup

# The kinds that a field means something to. `boundaries` and `factor` are not here: an experiment's
# are let pass when another kind is chosen on the command line.
_KINDS = {
  "plateau": ("plateau",),
  "length": ("cosine", "polynomial"),
  "end_factor": ("cosine", "polynomial"),
  "power": ("polynomial",),
  "warmup.factor": ("linear", "error"),
  "warmup.length": ("linear",),
  "warmup.error": ("error",),
  "warmup.error_examples": ("error",),
}


@dataclasses.dataclass(frozen=True)
class LearningRate:
  """The learning rate over time.

  Attributes:
    schedule: What of it the number of steps done determines, a linear warm-up included.
    warmup: The warm-up that the training error ends, or None.
    words: All of it in words, for people.
  """

  schedule: optax.Schedule
  warmup: ErrorWarmup | None
  words: str


def make_learning_rate(config: Config, steps: Callable[[str, str], int]) -> LearningRate:
  """Builds what the config's optimizer and schedule say of the learning rate.

  Args:
    config: The run's config.
    steps: `steps(field, duration)` gives a duration's number of steps.

  Raises:
    UserError: A setting means nothing, is out of range, or the schedule ends before it starts.
  """
  rule, warmup = config.schedule, config.schedule.warmup
  _check_settings(rule)
  base, origin = _base(config)
  end = steps("length", config.length)
  start = 0
  if warmup.kind == "linear":
    start = steps("schedule.warmup.length", warmup.length)
    if start >= end:
      raise UserError(
        f"schedule.warmup.length={warmup.length!r} is {start} steps, and the run is over after "
        f"{end}: give a shorter warm-up"
      )
  schedule, then = _schedule(rule, base, start, end, steps)
  words = [origin, then]
  if warmup.kind == "linear":
    schedule = schedules.linear_warmup(schedule, start, warmup.factor)
    words.append(f"linear warm-up from {warmup.factor * base:g} over {start:,} steps")
  error_warmup = None
  if warmup.kind == "error":
    latest = warmup.error_examples / config.batch_size
    error_warmup = ErrorWarmup(warmup.factor, warmup.error, max(1.0, latest))
    low = warmup.factor * base
    words.append(f"warm-up at {low:g} until the training error is below {warmup.error:g}")
  return LearningRate(schedule, error_warmup, ", ".join(words))


def _base(config: Config) -> tuple[float, str]:
  """The rate before schedule and warm-up, and where it comes from."""
  rate, batch = config.optimizer.learning_rate, config.optimizer.learning_rate_batch
  if batch is None:
    return rate, f"{rate:g}"
  scaled = rate * config.batch_size / batch
  return scaled, f"{scaled:g} ({rate:g} x {config.batch_size}/{batch})"


def _schedule(
  rule: ScheduleConfig, base: float, start: int, run_end: int, steps: Callable[[str, str], int]
) -> tuple[optax.Schedule, str]:
  """The schedule behind a warm-up that ends at step `start`, and what it does, in words."""
  if rule.kind == "constant":
    return optax.constant_schedule(base), "constant"
  if rule.kind == "plateau":
    words = f"x {rule.factor:g} after more than {rule.plateau.patience} evaluations in a row "
    return optax.constant_schedule(base), f"{words}without a lower validation {rule.plateau.metric}"
  if rule.kind == "stepwise":
    boundaries = [steps("schedule.boundaries", boundary) for boundary in rule.boundaries]
    try:
      schedule = schedules.stepwise(base, boundaries, rule.factor)
    except ValueError as error:
      raise UserError(f"schedule.{error}") from None
    if boundaries and boundaries[0] < start:
      raise UserError(
        f"schedule.warmup.length={rule.warmup.length!r} is {start} steps, and the first of "
        f"schedule.boundaries is at step {boundaries[0]}: give a shorter warm-up"
      )
    places = " and ".join(f"{boundary:,}" for boundary in boundaries)
    return schedule, f"x {rule.factor:g} at steps {places}" if boundaries else "constant"
  end = run_end if rule.length is None else steps("schedule.length", rule.length)
  if start >= end:
    raise UserError(
      f"schedule.warmup.length={rule.warmup.length!r} is {start} steps, and the schedule is over "
      f"after {end}: give a shorter warm-up or a later schedule.length"
    )
  if rule.kind == "cosine":
    schedule, name = schedules.cosine(base, end, start, rule.end_factor), "a cosine"
  else:
    schedule = schedules.polynomial(base, end, start, rule.end_factor, rule.power)
    name = f"a polynomial of power {rule.power:g}"
  return schedule, f"by {name} to {rule.end_factor * base:g} at step {end:,}"


def _check_settings(rule: ScheduleConfig) -> None:
  """Raises a UserError for a setting that means nothing, or is not what its rule can take."""
  for path, (_, value) in differences(ScheduleConfig(), rule).items():
    section = path.split(".")[0]
    kinds = _KINDS.get(path, _KINDS.get(section))
    owner = "schedule.warmup" if section == "warmup" else "schedule"
    kind = rule.warmup.kind if section == "warmup" else rule.kind
    if kinds and kind not in kinds:
      raise UserError(
        f"schedule.{path}={value} means nothing to {owner}.kind={kind!r}: leave it out, or choose "
        f"{' or '.join(kinds)}"
      )
  if rule.kind == "plateau":
    if rule.factor >= 1:
      raise UserError(f"schedule.factor={rule.factor} does not lower the rate: give less than 1")
    if rule.plateau.threshold_mode == "relative" and rule.plateau.threshold >= 1:
      raise UserError(
        f"schedule.plateau.threshold={rule.plateau.threshold} is a share of the best: give less "
        "than 1, or threshold_mode absolute"
      )
