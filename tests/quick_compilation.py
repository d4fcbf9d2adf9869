"""XLA options with which tests compile quickly.

None changes a result that a test looks at. Nothing here imports jax, which reads them.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

OPTIONS = (
  "--xla_backend_optimization_level=0",  # without LLVM's costly optimisations
  "--xla_cpu_parallel_codegen_split_count=1",  # one LLVM module for a program, instead of 32
  "--xla_cpu_use_fusion_emitters=false",  # in JAX 0.10, emits fusions several times as fast
)


def known_to_xla(flags: Sequence[str]) -> list[str]:
  """Returns the flags that the installed XLA knows; any other ends the process that sets it.

  One process tries all of them: XLA names every unknown flag before it aborts.
  """
  tried = subprocess.run(
    [sys.executable, "-c", "import jax; jax.devices()"],
    env=os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  if tried.returncode == 0:
    return [*flags]
  known = [flag for flag in flags if flag not in tried.stderr.split()]
  return known if len(known) < len(flags) else []  # else it failed for another reason
