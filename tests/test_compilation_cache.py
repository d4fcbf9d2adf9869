"""The cache of compiled programs: entries that are damaged are written anew, not warned of."""

import os
import subprocess
import sys
import zlib

from resnet_jax.compilation_cache import remove_damaged

COMPILE = """
import pathlib, sys
import jax, numpy as np
from resnet_jax.compilation_cache import enable_compilation_cache
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
events = []
enable_compilation_cache(pathlib.Path(sys.argv[1]))
def program(x):
  return x * 2 + 1
assert np.asarray(jax.jit(program)(np.float32(3))) == 7
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def compile_program(cache) -> tuple[int, str]:
  """Runs a program in a process of its own; its hits in the cache, and what it said."""
  variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
  result = subprocess.run(
    [sys.executable, "-c", COMPILE, str(cache)],
    env=variables,
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  return int(result.stdout), result.stderr


def test_a_damaged_entry_is_removed_with_a_line_and_written_again_in_the_same_run(tmp_path):
  assert compile_program(tmp_path) == (0, "")
  (entry,) = tmp_path.glob("jit_program-*-cache")
  content = entry.read_bytes()
  for damaged in (content[: len(content) // 2], b"", b"x" + content):
    entry.write_bytes(damaged)
    hits, said = compile_program(tmp_path)
    assert hits == 0
    assert said == f"removed a damaged entry of jit_program from {tmp_path}: it is compiled anew\n"
    assert zlib.decompress(entry.read_bytes())
  assert compile_program(tmp_path) == (1, "")


def test_whole_entries_and_those_of_other_programs_stay(tmp_path):
  (tmp_path / "jit_f-1-cache").write_bytes(zlib.compress(b"program"))
  (tmp_path / "jit_f-2-cache").write_bytes(zlib.compress(b"program")[:-1])
  (tmp_path / "jit_f-2-atime").write_bytes(b"")
  (tmp_path / "jit_g-3-cache").write_bytes(b"")
  assert remove_damaged(tmp_path, "jit_f") == ["jit_f-2-cache"]
  assert len(list(tmp_path.iterdir())) == 3


def test_other_warnings_are_shown_and_those_that_cannot_be_mended_too():
  code = """
import pathlib, warnings
from resnet_jax.compilation_cache import enable_compilation_cache
enable_compilation_cache(pathlib.Path("/nonexistent"))
warnings.warn("something else")
warnings.warn("Error reading persistent compilation cache entry for 'jit_f': OSError: gone")
"""
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert "UserWarning: something else" in result.stderr
  assert "UserWarning: Error reading persistent" in result.stderr
