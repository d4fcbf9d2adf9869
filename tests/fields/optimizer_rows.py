"""The optimizer of a run: what three updates make of its parameters, against the equations."""

import fnmatch

import jax
import numpy as np
import optax
from runs import BASE
from table import Row, with_fields

from resnet_jax.training.build import build_run
from resnet_jax.training.restore import abstract_state

UPDATES = 3


def names_of(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def fits(name, patterns):
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def random_like(params, seed):
  """Numbers that are the same whatever the parameters' dtype."""
  generator = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), params)


def updated(config):
  """The parameters after some updates of the run's optimizer, in float64."""
  with jax.enable_x64(True):
    run = build_run(config)
    shapes = abstract_state(run).params
    params = random_like(shapes, 0)
    state = run.optimizer.init(params)
    for number in range(UPDATES):
      updates, state = run.optimizer.update(random_like(shapes, 1 + number), state, params)
      params = optax.apply_updates(params, updates)
    return names_of(jax.device_get(params))


def by_hand(config):
  """The same by the equations of `make_optimizer`'s docstring."""
  shapes = abstract_state(build_run(BASE)).params
  equations, params = Equations(config), names_of(random_like(shapes, 0))
  for number in range(UPDATES):
    params = equations.update(params, names_of(random_like(shapes, 1 + number)))
  return params


class Equations:
  """The optimizers in NumPy, of parameters by name, at the constant rate of the config."""

  def __init__(self, config):
    self.settings, self.frozen = config.optimizer, config.frozen
    self.rate = config.optimizer.learning_rate
    self.first, self.second, self.count = {}, {}, 0

  def update(self, params, gradient):
    """The parameters after one more step."""
    self.count += 1
    settings = self.settings
    gradient = {k: np.zeros_like(g) if fits(k, self.frozen) else g for k, g in gradient.items()}
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    if settings.clip_norm is not None and norm > settings.clip_norm:
      gradient = {k: g * settings.clip_norm / norm for k, g in gradient.items()}
    return {
      k: w if fits(k, self.frozen) else w - self._step(k, w, gradient[k]) for k, w in params.items()
    }

  def _step(self, name, w, g):
    settings, rate = self.settings, self.rate
    decay = 0 if fits(name, settings.undecayed) else settings.weight_decay * w
    if settings.name == "adamw":
      adam = settings.adam
      mean = self._mean(self.first, name, g, adam.beta1)
      square = self._mean(self.second, name, g**2, adam.beta2)
      return rate * (mean / (np.sqrt(square) + adam.epsilon) + decay)
    if settings.name == "lars":
      g = g + decay
      if not fits(name, settings.lars.exclude):
        size = settings.lars.trust_coefficient * np.linalg.norm(w.ravel())
        g = g * size / (np.linalg.norm(g.ravel()) + settings.lars.epsilon)
      return self._momentum(name, rate * g)
    if settings.weight_decay_form == "decoupled":
      return rate * (self._momentum(name, g) + decay)
    return rate * self._momentum(name, g + decay)

  def _momentum(self, name, g):
    momentum = self.settings.momentum
    velocity = self.first[name] = momentum * self.first.get(name, 0) + g
    return momentum * velocity + g if self.settings.nesterov else velocity

  def _mean(self, sums, name, value, weight):
    sums[name] = weight * sums.get(name, 0) + (1 - weight) * value
    return sums[name] / (1 - weight**self.count)


def row(field, *values, **beside):
  """A row for a field of the optimizer's section; `beside` names fields of that, too."""
  path = field if field == "frozen" else f"optimizer.{field}"
  beside = {f"optimizer.{name.replace('__', '.')}": value for name, value in beside.items()}

  def expect(value):
    return by_hand(with_fields(BASE, beside | {path: value}))

  return Row(path, values, updated, expect, beside, rtol=1e-12)


ROWS = (
  row("name", "sgd", "lars", "adamw", weight_decay=0.1),
  row("momentum", 0.9, 0.5),
  row("momentum", 0.9, 0.5, name="lars"),
  row("nesterov", False, True),
  row("nesterov", False, True, name="lars"),
  *(row("weight_decay", 1e-4, 0.3, name=name) for name in ("sgd", "lars", "adamw")),
  row("weight_decay_form", None, "decoupled", "l2", weight_decay=0.3),
  *(
    row("undecayed", (), ("*/bias", "head/*"), name=name, weight_decay=0.3)
    for name in ("sgd", "lars", "adamw")
  ),
  row("undecayed", (), ("*/kernel",), weight_decay=0.3, weight_decay_form="decoupled"),
  row("clip_norm", None, 0.5, weight_decay=0.3),
  row("clip_norm", None, 0.5, name="lars", weight_decay=0.3, lars__epsilon=1.0),
  row("clip_norm", None, 0.5, name="adamw", adam__epsilon=0.1),
  row("adam.beta1", 0.9, 0.3, name="adamw"),
  row("adam.beta2", 0.999, 0.5, name="adamw"),
  row("adam.epsilon", 1e-8, 0.5, name="adamw"),
  row("lars.trust_coefficient", 0.001, 0.02, name="lars"),
  row("lars.epsilon", 0.0, 2.0, name="lars"),
  row("lars.exclude", ("*/scale", "*/bias"), ("head/*",), name="lars"),
  *(row("frozen", (), ("stage1/*",), name=name, clip_norm=0.5) for name in ("sgd", "lars")),
)
