"""The hardware, versions and commit that figures were measured with."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

from resnet_jax.run.environment import describe_environment


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
  """Returns the processor, number of cores, versions and commit, ready for JSON.

  Args:
    packages: Names of the packages whose versions to include.
  """
  environment = describe_environment()
  return {
    "cpu": _cpu_model(),
    "cores": cores(),
    "python": environment["python"],
    "packages": {name: _version(name) for name in packages},
    "commit": environment["commit"],
    "dirty": environment["dirty"],
  }


def cores() -> int:
  """Returns the number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _cpu_model() -> str:
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
  # On x86 Linux, TensorFlow is installed as tensorflow-cpu.
  for name in (package, f"{package}-cpu"):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      return importlib.metadata.version(name)
  return None
