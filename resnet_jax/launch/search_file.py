"""A search as a user writes it: a Python file whose `suggest(trial)` returns overrides.

    config = "digits"  # as in a sweep

    def suggest(trial):  # an Optuna trial
      return {"optimizer.learning_rate": trial.suggest_float("rate", 1e-3, 1, log=True)}

`sampler(seed)` and `pruner()` may return others of Optuna's than the defaults, and `seed` be
another number than 0.
"""

import inspect
from typing import Any

import numpy as np
import optuna

from resnet_jax.errors import UserError
from resnet_jax.launch.sweep_file import Variation, load_sweep, make_variation
from resnet_jax.run.config import mistake_in

_LARGEST_SEED = 2**32 - 1


class SearchFile:
  """What a search file, or a built-in one of that name, defines.

  Attributes:
    path: Where it lies.
    seed: What all random draws of the search follow from.
    experiment: What `--config` takes, unless a trial names another; None if all have to.
  """

  def __init__(self, file: str):
    """Reads it.

    Raises:
      UserError: There is no such file, or it is no search.
    """
    self.path, self._module = load_sweep(file)
    if not hasattr(self._module, "suggest"):
      raise UserError(f"{self.path} has sweep(), which says how many runs: leave out --trials")
    self.seed = getattr(self._module, "seed", 0)
    if type(self.seed) is not int or not 0 <= self.seed <= _LARGEST_SEED:
      raise UserError(f"{self.path}: seed={self.seed!r} is not an integer from 0 to 2**32 - 1")
    own = str(self.path) if hasattr(self._module, "get_config") else None
    self.experiment = getattr(self._module, "config", own)
    sampler = getattr(self._module, "sampler", None)
    if sampler and len(inspect.signature(sampler).parameters) != 1:
      raise UserError(
        f"{self.path}: sampler() takes no seed. Write def sampler(seed): it is called for each "
        "trial with another one, or a search that goes on would draw again what it has drawn"
      )

  def suggest(self, trial: optuna.trial.Trial) -> Variation:
    """The run of a trial.

    Raises:
      UserError: suggest() fails, or returns something else than values by field.
    """
    overrides = self._call("suggest", trial)
    return make_variation(self._module, self.path, overrides, f"suggest() of {self.path}")

  def sampler(self, number: int) -> optuna.samplers.BaseSampler:
    """What chooses the values of the trial of this number: its draws follow from seed and number.

    So they depend neither on which process makes the trial nor on when it was started.
    """
    words = np.random.SeedSequence((self.seed, number)).generate_state(1)
    return self._made("sampler", optuna.samplers.BaseSampler, int(words[0]))

  def pruner(self) -> optuna.pruners.BasePruner:
    """What says which runs are not worth their end."""
    return self._made("pruner", optuna.pruners.BasePruner)

  def _made(self, name: str, kind: Any, *arguments: int) -> Any:
    if not hasattr(self._module, name):
      if name == "sampler":
        return optuna.samplers.TPESampler(seed=arguments[0])
      return optuna.pruners.MedianPruner()
    value = self._call(name, *arguments)
    if not isinstance(value, kind):
      raise UserError(f"{name}() of {self.path} returns {value!r}, which is no {name} of Optuna's")
    if isinstance(value, optuna.samplers.GridSampler | optuna.samplers.BruteForceSampler):
      # At the end of their grid they stop `Study.optimize`, which is not what runs here.
      raise UserError(f"sampler() of {self.path}: {type(value).__name__} tries all: write sweep()")
    return value

  def _call(self, name: str, *arguments: Any) -> Any:
    try:
      return getattr(self._module, name)(*arguments)
    except UserError:
      raise
    except (Exception, SystemExit) as error:
      raise mistake_in(self.path, error) from error
