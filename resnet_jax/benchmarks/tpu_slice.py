"""A slice of a TPU, described to JAX and compiled for by the TPU's own compiler, without one."""

import dataclasses
import importlib.util
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from resnet_jax.devices import in_order
from resnet_jax.errors import UserError

_GIB = 2**30
# What the names of topologies begin with, and the memory of a device of that kind, in bytes
# (cloud.google.com/tpu/docs/system-architecture). Up to v3 a device is a core, half of a chip.
_MEMORY = {
  "v2": 8 * _GIB,
  "v3": 16 * _GIB,
  "v4": 32 * _GIB,
  "v5e": 16 * _GIB,
  "v5p": 95 * _GIB,
  "v6e": 32 * _GIB,
}
_CUBES = ("v4", "v5p")
_EXAMPLES = "v5e:8x8, v6e:16x16 or v4:2x2x4"


@dataclasses.dataclass(frozen=True)
class Slice:
  """A described slice.

  Attributes:
    name: Of its topology.
    devices: Its devices, those of a host side by side.
    memory: Bytes of a device.
  """

  name: str
  devices: tuple[jax.Device, ...]
  memory: int

  @property
  def hosts(self) -> int:
    """How many hosts they are spread over, as the compiler thinks: 4 chips or so each."""
    return len({device.process_index for device in self.devices})

  @property
  def kind(self) -> str:
    """What JAX calls the devices."""
    return str(self.devices[0].device_kind)


def describe_slice(name: str) -> Slice:
  """A slice by the name of its topology: its kind and, after a colon, the chips along each axis.

  Raises:
    UserError: There is no such topology, or the TPU's compiler is not installed.
  """
  found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
  if not found or found[1] not in _MEMORY or found[2].count("x") != 1 + (found[1] in _CUBES):
    raise UserError(
      f"--topology {name}: give {', '.join(_MEMORY)} and the chips along each of two axes (of v4 "
      f"and v5p, three), such as {_EXAMPLES}"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      'the TPU\'s compiler is not installed: pip install "resnet_jax[tpu]" (on Linux with x86-64; '
      "no TPU is needed)"
    )
  options: dict[str, Any] = {}
  if found[1] == "v4":
    options["chip_config_name"] = "megacore"  # One device a chip, as JAX has it on such a TPU.
  if math.prod(map(int, found[2].split("x"))) == 1:
    options["chips_per_host_bounds"] = [1, 1, 1]
  try:
    described = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition(": ")[2].splitlines()[0]
    raise UserError(f"--topology {name} cannot be described: {reason}") from None
  return Slice(name, tuple(in_order(described.devices)), _MEMORY[found[1]])
