"""What of this machine each of several runs at a time may use."""

import dataclasses
import importlib.util
import os
import subprocess
from collections.abc import Mapping, Sequence

from resnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Slot:
  """The share of one run.

  Attributes:
    environment: Variables that its process gets beside those of this one.
    cores: The cores that it may use; empty for all.
  """

  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  cores: Sequence[int] = ()

  def words(self) -> str:
    """What is special about it, in words; empty if nothing is."""
    devices = [f"{name}={value}" for name, value in self.environment.items()]
    cores = [f"cores {', '.join(map(str, self.cores))}"] if self.cores else []
    return ", ".join([*devices, *cores])


def split_machine(parallel: int | None) -> list[Slot]:
  """Equal shares of the visible GPUs, or where there is none of the cores.

  Shares are equal so that a run that is retried in another one has as much: on CPUs the bits of its
  numbers follow the number of cores.

  Args:
    parallel: How many runs at a time; None for one on each GPU, or one on CPUs.

  Raises:
    UserError: There are fewer GPUs.
  """
  gpus = visible_gpus()
  parallel = parallel or len(gpus) or 1
  if gpus:
    share = len(gpus) // parallel
    if not share:
      raise UserError(f"--parallel {parallel}: there are {len(gpus)} GPUs, and a run needs one")
    if parallel == 1:
      return [Slot()]
    groups = [gpus[i * share : (i + 1) * share] for i in range(parallel)]
    return [Slot({"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups]
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
  share = len(cores) // parallel
  if parallel == 1 or not share:  # More runs than cores: the system divides them as it can.
    return [Slot()] * parallel
  return [Slot(cores=cores[i * share : (i + 1) * share]) for i in range(parallel)]


def visible_gpus() -> list[str]:
  """The names of NVIDIA GPUs that JAX would see, without opening any of them."""
  if (os.environ.get("JAX_PLATFORMS") or "cuda").split(",")[0] not in ("cuda", "gpu"):
    return []
  if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
    return []
  named = os.environ.get("CUDA_VISIBLE_DEVICES")
  if named is not None:
    return [name for name in named.split(",") if name and name != "-1"]
  command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
  try:
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
  except (OSError, subprocess.SubprocessError):
    return []
  return listed.stdout.split()
