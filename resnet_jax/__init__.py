"""Deep residual learning in JAX and Flax, exact to the paper (He et al. 2015, arXiv 1512.03385).

The rooms of the house, each a subpackage imported when first used:

  models      networks and the parts they are built of (pure Flax Linen)
  data        data sets, augmentation, and the order in which examples are seen
  run         what a run is on disk: config, workdir, checkpoints, records
  evaluation  metrics, and accuracy over a whole split
  training    schedules, optimizer, train state, train step, loop
  analysis    curves and reports of finished or running runs
  benchmarks  how fast the parts are, beside what others use

Importing this package changes no jax configuration, logging, signal or environment variable, and
imports neither TensorFlow nor tensorflow-datasets nor matplotlib.
"""

import importlib
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from resnet_jax import analysis, benchmarks, data, evaluation, models, run, training

__version__ = "0.1.0"
__all__ = ["analysis", "benchmarks", "data", "evaluation", "models", "run", "training"]


def __getattr__(name: str) -> types.ModuleType:
  if name in __all__:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
