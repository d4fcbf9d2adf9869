"""The requirements of resnet_jax with some extras, without bounds that exclude newer releases.

`python tools/unbounded_requirements.py tfds,dev`, run in an environment with the package, prints
one requirement per line, for `pip install --upgrade`.
"""

import importlib.metadata
import sys
from collections.abc import Iterable

from packaging.requirements import Requirement


def unbounded(requirements: Iterable[str], extras: Iterable[str]) -> list[str]:
  """Returns the requirements that apply here, with only their lower bounds and exclusions."""
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
