"""Learning rate and weight decay of the digits, searched by Optuna: the demo of searches.

  resnet-jax sweep digits_search --workdir runs/search --trials 12

A network of 8 layers, trained for 5 epochs: it shows how searches work, not what a rate is worth.
"""

from typing import Any

config = "digits"
seed = 0


def suggest(trial: Any) -> dict[str, Any]:
  """Both on a logarithmic scale."""
  return {
    "optimizer.learning_rate": trial.suggest_float("rate", 1e-3, 1.0, log=True),
    "optimizer.weight_decay": trial.suggest_float("decay", 1e-5, 1e-2, log=True),
    "model.stage_sizes": (1, 1, 1),
    "schedule.boundaries": ("4 epochs",),
    "length": "5 epochs",
  }
