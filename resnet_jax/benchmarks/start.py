"""The benchmark of the time from the command `train` to its first training step."""

import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.training.startup import PHASES, parse_phases


@dataclasses.dataclass(frozen=True)
class StartBenchmark:
  """Settings of the start-up benchmark.

  Attributes:
    config: The experiment, as `train --config` takes it.
    fields: `--config.FIELD=VALUE` arguments.
    rounds: Number of pairs of a cold and a warm start.
  """

  config: str
  fields: Sequence[str] = ()
  rounds: int = 3


def run_start_benchmark(benchmark: StartBenchmark, say: Callable[[str], None]) -> dict[str, Any]:
  """Times cold starts, with an empty compilation cache, and warm starts, which reuse it.

  Each start runs the command in a process, which is killed once it has printed its phases.

  Args:
    benchmark: What to measure.
    say: Called with each line of progress.

  Returns:
    For `cold` and `warm`, medians over the rounds in seconds: `first_line`; `total`, until the
    first step is done; and its parts, `python` (before the command's own code) and the phases.

  Raises:
    UserError: The command failed.
  """
  sides: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
  for number in range(benchmark.rounds):
    with tempfile.TemporaryDirectory(prefix="resnet_jax-benchmark-") as folder:
      for side, starts in sides.items():
        starts.append(_start(benchmark, pathlib.Path(folder), side))
        words = ", ".join(f"{name} {seconds:.2f}" for name, seconds in starts[-1].items())
        say(f"round {number + 1}, {side}: {words}")
  medians = {
    side: {name: round(statistics.median(start[name] for start in starts), 3) for name in starts[0]}
    for side, starts in sides.items()
  }
  return {"config": benchmark.config, "fields": list(benchmark.fields), **medians}


def _start(benchmark: StartBenchmark, folder: pathlib.Path, side: str) -> dict[str, float]:
  """Starts a run whose directory and compilation cache are in a folder; returns its timings."""
  command = [sys.executable, "-m", "resnet_jax", "train", "--config", benchmark.config]
  command += ["--workdir", str(folder / side), *benchmark.fields]
  variables = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compilations")}
  with (folder / "errors").open("w+") as errors:
    begun = time.monotonic()
    process = subprocess.Popen(
      command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    try:
      found = _read(process, begun)
    finally:
      process.kill()
      process.wait()
    if found is None:
      errors.seek(0)
      raise UserError(f"the run ended before its first step: {errors.read().strip()}")
  return found


def _read(process: "subprocess.Popen[str]", begun: float) -> dict[str, float] | None:
  first_line: float | None = None
  assert process.stdout is not None
  for line in process.stdout:
    passed = time.monotonic() - begun
    first_line = first_line or passed
    if phases := parse_phases(line):
      return _split(first_line, passed, phases)
  return None


def _split(first_line: float, total: float, phases: Mapping[str, float]) -> dict[str, float]:
  named = {name.replace(" ", "_"): phases[name] for name in PHASES}
  before = total - sum(named.values())
  return {"first_line": first_line, "total": total, "python": before} | named
