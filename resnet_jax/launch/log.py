"""The log of a run: what its process prints, one start after another."""

import os
import pathlib

LOG = "log.txt"
_TAIL_BYTES = 4096
_LONGEST_LINE = 300


def last_line(path: pathlib.Path, begin: int = 0) -> str:
  """What a run has said last, from a position of its log on; "" if nothing.

  Lines with # are what launchers write into it.
  """
  return next((line for line in _backwards(path, begin) if not line.startswith("#")), "")


def last_remark(path: pathlib.Path) -> str:
  """What its launcher has written last; "" if nothing of it is near the end."""
  remark = next((line for line in _backwards(path, 0) if line.startswith("# ")), "")
  return remark.removeprefix("# ")


def _backwards(path: pathlib.Path, begin: int) -> list[str]:
  """The last lines that are not empty, the last one first."""
  try:
    with path.open("rb") as file:
      file.seek(max(begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
      lines = file.read().decode(errors="replace").splitlines()
  except OSError:
    return []
  return [line.strip()[:_LONGEST_LINE] for line in reversed(lines) if line.strip()]
