"""From a config to the objects of a run, with everything checked before any long work starts."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax import devices, models
from resnet_jax.data.dataset import Dataset
from resnet_jax.data.sources import open_dataset
from resnet_jax.errors import UserError
from resnet_jax.run.config import check_config
from resnet_jax.training.config import CheckpointConfig, Config, LarsConfig
from resnet_jax.training.durations import parse_steps
from resnet_jax.training.learning_rate import LearningRate, make_learning_rate
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.parameter_names import check_patterns, matching
from resnet_jax.training.rates import scale_by_rate

# So many that no share of an epoch is less than a step.
_MANY_EXAMPLES = 10**12


@dataclasses.dataclass(frozen=True)
class Run:
  """What a config describes, ready to be trained or evaluated.

  Attributes:
    config: The config.
    dataset: Its data set, opened.
    model: Its network, whose batch norms take the axis of the devices and the config's groups.
    optimizer: Its optimizer.
    learning_rate: The learning rate over time, which the optimizer holds.
    steps: Length of the training.
    log_every: Steps between records of the training metrics.
    evaluate_every: Steps between evaluations.
    checkpoint_every: Steps between checkpoints.
    profile_start: Number of steps done when a profile begins; None for no profile.
    init: Returns random variables of the network for a key; compiled at the first call. The
      variables of scanned blocks are stacked.
    variables: Shapes and dtypes of the result of `init`.
    devices: The devices to train on; None for all.
  """

  config: Config
  dataset: Dataset
  model: models.Network
  optimizer: optax.GradientTransformation
  learning_rate: LearningRate
  steps: int
  log_every: int
  evaluate_every: int
  checkpoint_every: int
  profile_start: int | None
  init: Callable[[jax.Array], Any]
  variables: Any
  devices: Sequence[jax.Device] | None = None

  @property
  def parallelize(self) -> Callable[..., Any]:
    """`devices.parallelize`, as the config has it."""
    config = self.config
    return functools.partial(
      devices.parallelize,
      parallel=config.parallel,
      precision=config.matmul_precision,
      devices=self.devices,
    )

  @property
  def key(self) -> jax.Array:
    """The key that all randomness on the devices is a function of, with epoch and example."""
    return jax.random.key(self.config.seed)


def build_run(
  config: Config,
  trains: bool = True,
  dataset: Dataset | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Run:
  """Builds a run.

  Args:
    config: What it is.
    trains: Whether it is to be trained on its devices, not evaluated alone: then they must be able
      to share its batch.
    dataset: Its data set, if it is open already.
    devices: Those that it is for; None for all that there are.

  Raises:
    UserError: Something in the config is wrong, or its data is not there; the message names it.
  """
  check_config(config)
  dataset = dataset or open_dataset(config.data, config.seed)

  def steps(field: str, duration: str) -> int:
    return parse_steps(duration, field, config.batch_size, dataset.splits["train"].size)

  learning_rate = make_learning_rate(config, steps)
  rate = scale_by_rate(learning_rate.schedule, learning_rate.warmup)
  optimizer = make_optimizer(config.optimizer, rate, config.frozen)
  model, init = _build_model(config, dataset)
  variables = _variable_shapes(config, init)
  _check_parameter_names(config, variables["params"])
  if trains:
    _check_metrics(config, dataset)
    _check_batch(config, model, len(devices) if devices else jax.device_count())
  length, profile_start = steps("length", config.length), None
  if config.profile.start is not None:
    profile_start = steps("profile.start", config.profile.start)
    if trains and profile_start >= length:
      raise UserError(
        f"profile.start={config.profile.start!r}: the run is over after {length} steps"
      )
  return Run(
    config=config,
    dataset=dataset,
    model=model,
    optimizer=optimizer,
    learning_rate=learning_rate,
    steps=length,
    log_every=steps("log_every", config.log_every),
    evaluate_every=steps("evaluate_every", config.evaluate_every),
    checkpoint_every=steps("checkpoint.every", config.checkpoint.every),
    profile_start=profile_start,
    init=init,
    variables=variables,
    devices=devices,
  )


def check_without_data(config: Config) -> None:
  """Raises a UserError for what is wrong in a config whatever its data set is.

  So a run that is to be trained elsewhere can be looked at here: types and ranges, the network's
  and the optimizer's settings, the form of durations, parts and batch-norm groups.
  """
  check_config(config)
  model = _with_groups(config, _create(config))
  make_optimizer(config.optimizer, optax.constant_schedule(1.0), config.frozen)
  _check_batch(config, model, jax.device_count())
  durations = {
    "length": config.length,
    "log_every": config.log_every,
    "evaluate_every": config.evaluate_every,
    "checkpoint.every": config.checkpoint.every,
  }
  for field, duration in durations.items():
    parse_steps(duration, field, config.batch_size, _MANY_EXAMPLES)


def _create(config: Config, **more: Any) -> models.Network:
  """Returns the config's network; raises a UserError if there is none."""
  try:
    return config.model.create(**more)
  except (ValueError, TypeError) as error:
    raise UserError(f"config.model: {error}") from None


def _with_groups(config: Config, model: models.Network) -> models.Network:
  """Sets the device axis and the config's groups in the network's batch norms."""
  if model.norm != "batch":
    return model
  norm = functools.partial(models.BatchNorm, axis_name=devices.AXIS, group=config.bn_group)
  return model.clone(norm=norm)


def _build_model(
  config: Config, dataset: Dataset
) -> tuple[models.Network, Callable[[jax.Array], Any]]:
  """Returns the config's network for a data set, mapped over the devices, and its `Run.init`.

  The number of classes is the data set's unless the config sets it.

  Raises:
    UserError: There is no such network, or it does not fit the data set.
  """
  num_classes = config.model.overrides.get("num_classes", dataset.num_classes)
  model = _create(config, num_classes=num_classes)
  if "float64" in (model.dtype, model.param_dtype) and not jax.config.read("jax_enable_x64"):
    raise UserError("float64 is off in JAX: set the environment variable JAX_ENABLE_X64=1")
  if model.head == "none":
    raise UserError(
      "config.model.head='none' leaves no classifier to train: use avg, max or flatten"
    )
  if model.num_classes != dataset.num_classes:
    raise UserError(
      f"the network has {model.num_classes} outputs and {dataset.name} has {dataset.num_classes} "
      f"classes: leave out model.num_classes, or set it to {dataset.num_classes}"
    )
  return _with_groups(config, model), _initializer(model, dataset.image_shape)


@functools.lru_cache(maxsize=8)
def _initializer(
  model: models.Network, image_shape: tuple[int, int, int]
) -> Callable[[jax.Array], Any]:
  """Returns `Run.init` of a network, cached with its trace, because a sweep has few networks.

  JAX traces it once for both its shapes and its values.
  """

  def init(key: jax.Array) -> Any:
    variables = model.init(key, jnp.zeros((1, *image_shape)))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

  # On CPUs, at LLVM's highest level, the random bits of each kernel take over a second to compile.
  options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
  return jax.jit(init, compiler_options=options)


def _variable_shapes(config: Config, init: Callable[[jax.Array], Any]) -> Any:
  """Returns `Run.variables`; raises a UserError if the network cannot take such images."""
  try:
    return jax.eval_shape(init, jax.random.key(config.seed))
  except (ValueError, TypeError) as error:
    raise UserError(f"config.model: {error}") from None


def _check_metrics(config: Config, dataset: Dataset) -> None:
  """Raises a UserError if the run is led by a metric that it will not have."""
  metric = config.checkpoint.metric
  if metric.startswith("ema_") and config.ema_decay is None:
    raise UserError(
      f"checkpoint.metric={metric!r} is of average weights, and there are none: set ema_decay, or "
      f"choose {metric.removeprefix('ema_')}"
    )
  if "validation" not in dataset.splits and metric != CheckpointConfig().metric:
    raise UserError(
      f"checkpoint.metric={metric!r}: {dataset.name} has no validation split; set data.held_out, "
      "or leave it out"
    )
  if config.schedule.kind == "plateau" and "validation" not in dataset.splits:
    raise UserError(
      f"schedule.kind='plateau' follows the validation {config.schedule.plateau.metric}, and "
      f"{dataset.name} has no validation split: set data.held_out, or choose another kind"
    )


def _check_parameter_names(config: Config, params: Any) -> None:
  """Raises a UserError for a pattern that no parameter fits, or if nothing is left to train."""
  if config.reset and config.init_from is None:
    raise UserError(
      f"reset={config.reset} without init_from: every parameter starts at random; leave it out, or "
      "give the run whose weights the others start from"
    )
  optimizer, lars = config.optimizer, config.optimizer.lars
  fields = {
    "optimizer.undecayed": optimizer.undecayed,
    "frozen": config.frozen,
  }
  if optimizer.name == "lars" and lars.exclude != LarsConfig().exclude:
    fields["optimizer.lars.exclude"] = lars.exclude
  for field, patterns in fields.items():
    check_patterns(params, patterns, field)
  if config.frozen and all(jax.tree.leaves(matching(params, config.frozen))):
    raise UserError(f"frozen={config.frozen}: every parameter fits, and none is left to train")


def _check_batch(config: Config, model: models.Network, count: int) -> None:
  """Raises a UserError unless `count` devices, parts and batch-norm groups divide the batch."""
  parts = config.accumulate
  if config.batch_size % (count * parts):
    each = f"accumulate={parts} parts on each of " if parts > 1 else ""
    raise UserError(
      f"batch_size={config.batch_size} cannot be spread evenly over {each}{count} device(s): "
      f"choose a multiple of {count * parts}"
    )
  if not isinstance(model.norm, functools.partial) or getattr(model, "frozen_bn", False):
    return  # only our batch norm, which `_build_model` made, sees more than one example
  part = config.batch_size // parts
  if parts > 1 and (config.bn_group is None or config.bn_group > part):
    raise UserError(
      f"accumulate={parts} with bn_group={config.bn_group}: batch norm sees {part} of the "
      f"{config.batch_size} examples at a time; set bn_group to a divisor of {part}, or "
      "accumulate=1"
    )
  if config.bn_group is not None:
    try:
      models.group_layout(part // count, config.bn_group, count)
    except ValueError as error:
      raise UserError(f"bn_group={config.bn_group}: {error}") from None
