"""The paper's Table 6: the 6n+2 layer networks on CIFAR-10, five seeds each.

  resnet-jax prepare cifar10 --data-dir DATA
  resnet-jax sweep cifar10_table6 --workdir runs/table6 --config.data.data_dir=DATA
  for run in runs/table6/0*; do resnet-jax evaluate --workdir $run --split test; done

All 50,000 images train, so nothing is validated: `evaluate` adds the test error, and the same sweep
command then shows it. The paper ran resnet110 five times and gives "best (mean+-std)", 6.43
(6.61+-0.16) %; of the others it gives one number: 8.75 (resnet20), 7.51 (32), 7.17 (44), 6.97 (56).
resnet1202 (7.93) has its own needs of memory and time, and is left out.

Not run yet.
"""

import itertools
from collections.abc import Iterator
from typing import Any


def sweep() -> Iterator[dict[str, Any]]:
  """All depths with one seed before the next seed, so that a part of it is a whole table."""
  for seed, depth in itertools.product(range(5), (20, 32, 44, 56, 110)):
    # The experiment, not model.name: it knows that resnet110 is warmed up.
    yield {"config": f"cifar10:resnet{depth},full", "seed": seed}
