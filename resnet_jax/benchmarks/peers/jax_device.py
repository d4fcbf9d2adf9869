"""Reports on devices and networks by the sides that use JAX."""

from collections.abc import Sequence
from typing import Any

import jax

from resnet_jax.errors import UserError


def device_facts(devices: Sequence[jax.Device]) -> dict[str, Any]:
  """Describes the devices that a side computes on.

  Raises:
    UserError: There are several accelerators; the peers use only one.
  """
  platform = devices[0].platform
  if platform != "cpu" and len(devices) > 1:
    raise UserError(
      f"there are {len(devices)} accelerators, but the peers use one: make only one visible, with "
      "CUDA_VISIBLE_DEVICES=0 or TPU_VISIBLE_CHIPS=0"
    )
  return {"platform": platform, "devices": f"{len(devices)} x {devices[0].device_kind}"}


def parameter_count(params: Any) -> int:
  """Returns the number of a network's parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
