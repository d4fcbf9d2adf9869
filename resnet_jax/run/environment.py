"""What a run ran on: commit, versions, devices, command."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import socket
import subprocess
import sys
from typing import Any

from resnet_jax.run.workdir import write_json

_PACKAGES = (
  "resnet_jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "tensorflow-datasets",
)


def describe_environment() -> dict[str, Any]:
  """Everything outside the config that can change a run's numbers."""
  import jax

  commit, dirty = _commit()
  return {
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": sys.argv,
    "commit": commit,
    "dirty": dirty,
    "python": platform.python_version(),
    "packages": {name: _version(name) for name in _PACKAGES},
    "host": socket.gethostname(),
    "platform": platform.platform(),
    "backend": jax.default_backend(),
    "devices": [device.device_kind for device in jax.devices()],
    "processes": jax.process_count(),
  }


def record_environment(workdir: pathlib.Path) -> None:
  """Writes environment.json; the starts before this one are kept under `earlier`."""
  path = workdir / "environment.json"
  environment = describe_environment()
  try:
    last = json.loads(path.read_text())
    environment["earlier"] = [*last.pop("earlier", []), last]
  except (OSError, ValueError, TypeError, AttributeError):
    environment["earlier"] = []
  write_json(path, environment)


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit() -> tuple[str | None, bool | None]:
  """The commit of the clone that this package runs from, and whether files differ from it."""
  root = pathlib.Path(__file__).resolve().parents[2]
  if not (root / ".git").exists():
    return None, None
  try:
    commit = _git(root, "rev-parse", "HEAD")
    return commit, bool(_git(root, "status", "--porcelain"))
  except (OSError, subprocess.SubprocessError):
    return None, None


def _git(root: pathlib.Path, *arguments: str) -> str:
  command = ["git", "-C", str(root), *arguments]
  return subprocess.run(
    command, capture_output=True, text=True, check=True, timeout=10
  ).stdout.strip()
