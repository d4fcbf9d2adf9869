"""What sides that use JAX report of their devices and networks."""

from collections.abc import Sequence
from typing import Any

import jax

from resnet_jax.errors import UserError


def device_facts(devices: Sequence[jax.Device]) -> dict[str, Any]:
  """Describes the devices that a side computes on.

  Raises:
    UserError: They are several accelerators, of which the peers use one.
  """
  platform = devices[0].platform
  if platform != "cpu" and len(devices) > 1:
    raise UserError(
      f"there are {len(devices)} accelerators, and the peers use one: show this command one alone, "
      "with CUDA_VISIBLE_DEVICES=0 or TPU_VISIBLE_CHIPS=0"
    )
  return {"platform": platform, "devices": f"{len(devices)} x {devices[0].device_kind}"}


def parameter_count(params: Any) -> int:
  """Returns the number of a network's parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
