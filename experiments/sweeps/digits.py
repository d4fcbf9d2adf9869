"""Learning rate and seed of the digits: six short runs, the demo of sweeps.

  resnet-jax sweep digits --workdir runs/sweep

A network of 8 layers, trained for 5 epochs: it shows how sweeps work, not what a rate is worth.
"""

import itertools
from collections.abc import Iterator
from typing import Any

config = "digits"


def sweep() -> Iterator[dict[str, Any]]:
  """Three rates, two seeds each."""
  for rate, seed in itertools.product((0.03, 0.1, 0.3), range(2)):
    yield {
      "optimizer.learning_rate": rate,
      "seed": seed,
      "model.stage_sizes": (1, 1, 1),
      "schedule.boundaries": ("4 epochs",),
      "length": "5 epochs",
    }
