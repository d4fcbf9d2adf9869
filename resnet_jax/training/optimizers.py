"""Optimizers, as optax transformations.

Each is a chain whose order is its definition; the learning rate is a part of it
(`resnet_jax.training.rates`).
"""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError
from resnet_jax.run.config import differences
from resnet_jax.training.config import LarsConfig, OptimizerConfig
from resnet_jax.training.parameter_names import is_stacked, matching, parameter_names
from resnet_jax.training.rates import scale_by_rate

# Fields that mean nothing to an optimizer. One that has its default cannot be told from one that
# was not given, and is let pass.
_WITHOUT_MEANING = {
  "sgd": ("adam", "lars"),
  "lars": ("adam",),
  "adamw": ("momentum", "nesterov", "lars"),
}


def make_optimizer(
  config: OptimizerConfig,
  rate: optax.Schedule | optax.GradientTransformation,
  frozen: Sequence[str] = (),
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a config; by default SGD with momentum and L2 weight decay (section 3.4).

  With g the gradient of the loss, clipped to the norm `clip_norm` over all that is trained, and d w
  the weight decay, 0 for what is `undecayed`:

  - sgd: g = g + d w;  v = momentum v + g;  w = w - rate v: the rate stands outside of v, so that
    dividing it takes effect at once. Decoupled: v = momentum v + g;  w = w - rate (v + d w).
  - lars (arXiv 1708.03888, as optax has it): g = g + d w;  v = momentum v + rate r g;  w = w - v,
    where r = trust_coefficient |w| / (|g| + epsilon), parameter by parameter, and 1 for what is
    excluded or where a norm is 0.
  - adamw (arXiv 1711.05101): w = w - rate (m / (sqrt(s) + epsilon) + d w), m and s the means of g
    and g^2, divided by what their weights add up to.

  Args:
    config: Which optimizer, and its settings. `learning_rate` and `learning_rate_batch` are not
      looked at: they are in `rate`.
    rate: Learning rate by the number of steps done; or what multiplies by minus the rate, as
      `rates.scale_by_rate`.
    frozen: Names of parameters, as patterns, whose updates are zero.

  Raises:
    UserError: A setting means nothing to this optimizer.
  """
  check_settings(config)
  scale = rate if isinstance(rate, optax.GradientTransformation) else scale_by_rate(rate)
  mask = _decayed(config.undecayed) if config.undecayed else None
  decay = optax.add_decayed_weights(config.weight_decay, mask)
  if config.name == "adamw":
    adam = config.adam
    parts = [optax.scale_by_adam(adam.beta1, adam.beta2, adam.epsilon), decay, scale]
  else:
    momentum = optax.trace(config.momentum, config.nesterov)
    if config.name == "lars":
      parts = [decay, _scale_by_trust_ratio(config.lars), scale, momentum]
    elif config.weight_decay_form == "decoupled":
      parts = [momentum, decay, scale]
    else:
      parts = [decay, momentum, scale]
  if config.clip_norm is not None:
    parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if frozen:
    # First, so that they have no part in the norm; last, so that weight decay does not move them.
    zero = optax.masked(optax.set_to_zero(), lambda params: matching(params, frozen))
    parts = [zero, *parts, zero]
  return optax.chain(*parts)


def check_settings(config: OptimizerConfig) -> None:
  """Raises a UserError if a setting means nothing to the optimizer: none is passed over."""
  for path, (_, value) in differences(OptimizerConfig(), config).items():
    if path.split(".")[0] in _WITHOUT_MEANING[config.name]:
      raise UserError(
        f"optimizer.{path}={value} means nothing to optimizer.name={config.name!r}: leave it out, "
        "or choose another optimizer"
      )
  if config.nesterov and not config.momentum:
    raise UserError("optimizer.nesterov=True looks ahead by the momentum, which is 0: set one")
  if config.name == "adamw" and config.weight_decay_form == "l2":
    raise UserError("optimizer.weight_decay_form='l2': AdamW's is decoupled; leave it out")
  if config.name == "lars" and config.weight_decay_form == "decoupled":
    raise UserError(
      "optimizer.weight_decay_form='decoupled': LARS has weight decay in the gradient, whose norm "
      "it measures; leave it out"
    )


def _decayed(undecayed: Sequence[str]) -> Any:
  """A mask of the parameters that fit none of the patterns."""
  return lambda params: jax.tree.map(operator.not_, matching(params, undecayed))


def _scale_by_trust_ratio(config: LarsConfig) -> optax.GradientTransformation:
  """LARS's ratio; that of each block where several are scanned, which optax's would take as one."""

  def scale(update: jax.Array, param: jax.Array) -> jax.Array:
    norm, size = jnp.linalg.norm(update.ravel()), jnp.linalg.norm(param.ravel())
    both = (norm > 0) & (size > 0)
    ratio = config.trust_coefficient * size / jnp.where(both, norm + config.epsilon, 1)
    return update * jnp.where(both, ratio, 1).astype(jnp.result_type(update))

  def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
    excluded = jax.tree.leaves(matching(updates, config.exclude))
    leaves, structure = jax.tree.flatten(updates)
    scaled = [
      leaf if out else (jax.vmap(scale) if is_stacked(names) else scale)(leaf, param)
      for leaf, param, out, names in zip(
        leaves, jax.tree.leaves(params), excluded, parameter_names(updates), strict=True
      )
    ]
    return jax.tree.unflatten(structure, scaled)

  return optax.stateless(update)
