"""JAX's cache of compiled programs, on disk, which mends itself.

A process that dies while it writes an entry leaves half of it. JAX then warns of the entry at every
start, compiles anew, and never replaces it. Here such an entry is deleted as soon as JAX warns,
which is before the program is compiled: so JAX writes it again in the same run.
"""

import glob
import importlib
import pathlib
import re
import sys
import warnings
import zlib
from typing import Any, TextIO

import jax

_WARNING = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def enable_compilation_cache(default: pathlib.Path) -> None:
  """Keeps compiled programs from run to run, however quickly they compile.

  Args:
    default: The directory, unless JAX has been told one, as by JAX_COMPILATION_CACHE_DIR.
  """
  if not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", str(default))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  show = warnings.showwarning

  def mend_or_show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
  ) -> None:
    found = _WARNING.match(str(message))
    if not found or not _mend(found[1]):
      show(message, category, filename, lineno, file, line)

  warnings.showwarning = mend_or_show


def remove_damaged(directory: pathlib.Path, program: str) -> list[str]:
  """Deletes the entries of a program that cannot be decompressed; returns their names.

  Args:
    directory: The cache.
    program: Name of a compiled function, with which the names of its entries begin.
  """
  removed = []
  for path in directory.glob(f"{glob.escape(program)}*-cache"):
    try:
      if _decompresses(path.read_bytes()):
        continue
      path.unlink(missing_ok=True)
    except OSError:  # Deleted by another process; or not ours to delete, then JAX's warning stays.
      continue
    removed.append(path.name)
  return removed


def _mend(program: str) -> bool:
  directory = pathlib.Path(jax.config.values["jax_compilation_cache_dir"])
  removed = remove_damaged(directory, program)
  if removed:
    what = "a damaged entry" if len(removed) == 1 else f"{len(removed)} damaged entries"
    print(f"removed {what} of {program} from {directory}: it is compiled anew", file=sys.stderr)
  return bool(removed)


def _decompresses(content: bytes) -> bool:
  """Whether an entry is whole, as far as its compression shows: zstd's, or zlib's without one."""
  try:
    if content.startswith(_ZSTANDARD):
      zstandard = _zstandard()
      # Without one JAX cannot have written it: there is nothing to judge it by.
      return zstandard is None or bool(zstandard(content))
    return bool(zlib.decompress(content))
  except Exception:  # Each library has an error of its own.
    return False


def _zstandard() -> Any:
  """The function of whichever library JAX would take, or None."""
  for module in ("compression.zstd", "zstandard"):
    try:
      return importlib.import_module(module).decompress
    except ImportError:
      continue
  return None
