"""Deep residual learning in JAX and Flax, exact to the paper (He et al. 2015, arXiv 1512.03385).

The rooms of the house, each a subpackage imported when first used:

  models      networks and the parts they are built of (pure Flax Linen)
  data        data sets, augmentation, and the order in which examples are seen
  run         what a run is on disk: config, workdir, checkpoints, records
  weights     weights of other libraries, read, stored and written
  evaluation  metrics, and accuracy over a whole split
  training    schedules, optimizer, train state, train step, loop
  analysis    curves and reports of finished or running runs
  benchmarks  how fast the parts are, beside what others use

`create(name, weights=…)` is a network with weights, and what they expect of pictures.

Importing this package changes no jax configuration, logging, signal or environment variable, and
imports neither TensorFlow nor tensorflow-datasets nor matplotlib.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from resnet_jax import analysis, benchmarks, data, evaluation, models, run, training, weights
  from resnet_jax.weights import create

__version__ = "0.1.0"
__all__ = [
  "analysis",
  "benchmarks",
  "create",
  "data",
  "evaluation",
  "models",
  "run",
  "training",
  "weights",
]


def __getattr__(name: str) -> Any:
  if name == "create":
    return importlib.import_module(f"{__name__}.weights").create
  if name in __all__:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
