"""Prints what resnet_jax requires with some extras, without the bounds that exclude newer releases.

`python tools/unbounded_requirements.py tfds,dev` runs where the package is installed, and prints
one requirement a line, for `pip install --upgrade`.
"""

import importlib.metadata
import sys
from collections.abc import Iterable

from packaging.requirements import Requirement


def unbounded(requirements: Iterable[str], extras: Iterable[str]) -> list[str]:
  """Returns those that apply here, each with its lower bounds and excluded versions alone."""
  lines = []
  for requirement in map(Requirement, requirements):
    marker = requirement.marker
    if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
      continue
    kept = sorted(str(bound) for bound in requirement.specifier if bound.operator in (">=", "!="))
    parts = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    lines.append(f"{requirement.name}{parts}{','.join(kept)}")
  return lines


if __name__ == "__main__":
  print(*unbounded(importlib.metadata.requires("resnet_jax"), sys.argv[1].split(",")), sep="\n")
