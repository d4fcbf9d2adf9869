"""Accelerators as SkyPilot and Google Cloud name them: TPU slices from what people call them."""

import dataclasses
import re
from typing import Any

from resnet_jax.errors import UserError

# What the families are called beside their names in Google Cloud.
_FAMILIES = {
  "v2": "v2",
  "v3": "v3",
  "v4": "v4",
  "v5e": "v5litepod",
  "v5lite": "v5litepod",
  "v5litepod": "v5litepod",
  "v5p": "v5p",
  "v6e": "v6e",
}
# The host's software that Google has for JAX, of Ubuntu 22.04. SkyPilot (0.14.1) would take that of
# v5p for v5e, and Ubuntu 20.04 for v4 and before.
_RUNTIMES = {
  "v5litepod": "v2-alpha-tpuv5-lite",
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}
_OLDER_RUNTIME = "tpu-ubuntu2204-base"
# Chips of a slice; the older families and v5p count TensorCores, two a chip, in multiples of 8.
_CHIPS = {
  "v5litepod": (1, 4, 8, 16, 32, 64, 128, 256),
  "v6e": (1, 4, 8, 16, 32, 64, 128, 256),
}
_TPU = re.compile(r"(?:tpu[-_ ]?)?(v\d+(?:[-_ ]?(?:e|p|lite|litepod))?)[-_ :]?(\d+)")
_OTHER = re.compile(r"[\w.-]+(?::\d+)?")


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """What each run is trained on.

  Attributes:
    name: As SkyPilot has it: "tpu-v5litepod-64", "H100:8".
    runtime: A TPU host's software; None for what is no TPU.
  """

  name: str
  runtime: str | None

  def resources(self) -> dict[str, Any]:
    """Its part of the `resources` of a task."""
    if self.runtime is None:
      return {"accelerators": self.name}
    return {
      "cloud": "gcp",
      "accelerators": self.name,
      "accelerator_args": {"runtime_version": self.runtime},
    }


def parse_accelerator(text: str) -> Accelerator:
  """An accelerator from its name.

  TPU slices may be called "v5e-64", "TPU v5e-64" or "tpu-v5litepod-64". Of anything else, such as
  "H100:8", SkyPilot knows what there is.

  Raises:
    UserError: It is a TPU that there is not, or no name.
  """
  spelled = text.strip().lower()
  if not re.match(r"tpu|v\d", spelled):
    if not _OTHER.fullmatch(text):
      raise UserError(f"--accelerator {text!r}: expected v5e-64, or H100:8")
    return Accelerator(text, None)
  match = _TPU.fullmatch(spelled)
  family = _FAMILIES.get(re.sub(r"[-_ ]", "", match[1])) if match else None
  if match is None or family is None:
    raise UserError(
      f"--accelerator {text!r}: TPU slices are v2-N, v3-N, v4-N, v5e-N (tpu-v5litepod-N), v5p-N "
      "and v6e-N, such as v5e-64"
    )
  size = int(match[2])
  chips = _CHIPS.get(family)
  if chips and size not in chips:
    sizes = ", ".join(map(str, chips))
    raise UserError(f"--accelerator {text!r}: slices of {match[1]} have {sizes} chips")
  if not chips and (size % 8 or not size):
    raise UserError(
      f"--accelerator {text!r}: slices of {match[1]} are named by their TensorCores, two a chip, "
      "in multiples of 8"
    )
  return Accelerator(f"tpu-{family}-{size}", _RUNTIMES.get(family, _OLDER_RUNTIME))
