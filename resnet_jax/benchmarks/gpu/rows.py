"""The GPU benchmark: checks, then measurements, each in a process of its own, in a fixed time."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from resnet_jax.benchmarks.gpu.numbers import compare
from resnet_jax.benchmarks.gpu.resnet50 import flops_per_image
from resnet_jax.benchmarks.gpu.seeds import describe
from resnet_jax.benchmarks.peers.summary import table
from resnet_jax.run.workdir import write_json


@dataclasses.dataclass(frozen=True)
class Plan:
  """Sizes and time limits of the rows.

  Attributes:
    minutes: Time limit of everything.
    check_seconds: Time limit of the comparison with the CPU.
    peer_seconds: Time limit of ResNet-50 and its peers.
    seed_seconds: Time limit of ResNet-20 with several seeds at once.
    peers: Fields of `PeersBenchmark` other than network, mode, dtype and minutes.
    matmul_size: Rows of the matrices whose product measures the device's best rate.
    seeds: Fields of `SeedsBenchmark`.
  """

  minutes: float = 9.0
  check_seconds: float = 90.0
  peer_seconds: float = 285.0
  seed_seconds: float = 130.0
  peers: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: {"batch_size": 256, "seconds": 3.0}
  )
  matmul_size: int = 8192
  seeds: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# The same program in sizes small enough for two CPU cores.
REHEARSAL = Plan(
  peers={"batch_size": 2, "image_size": 64, "seconds": 0.1, "rounds": 2},
  matmul_size=256,
  seeds={"counts": [1, 2], "steps": 2, "seconds": 0.1, "examples": 64, "batch_size": 4},
)


def run_rows(
  plan: Plan, output: pathlib.Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
  """Runs the rows one after another, even if an earlier one fails or runs out of time.

  Args:
    plan: Sizes and time limits.
    output: A folder for each row's log, and for `gpu.json`, which is rewritten after each row.
    say: Called with each line of progress and of the table.

  Returns:
    The figures of each row, or its `error`.
  """
  output.mkdir(parents=True, exist_ok=True)
  end = time.monotonic() + 60 * plan.minutes
  results: dict[str, Any] = {}
  rows: tuple[tuple[str, float, Callable[[Processes], dict[str, Any]]], ...] = (
    ("numbers", plan.check_seconds, _numbers),
    ("peers", plan.peer_seconds, lambda processes: _peers(processes, plan)),
    ("seeds", plan.seed_seconds, lambda processes: _seeds(processes, plan)),
  )
  for name, limit, row in rows:
    begun = time.monotonic()
    processes = Processes(output / f"{name}.log", min(end, begun + limit))
    say(f"{name}: at most {processes.seconds_left():.0f} s, log in {processes.log}")
    try:
      results[name] = row(processes)
    except Exception as error:  # the next row may still succeed
      results[name] = {"error": f"{type(error).__name__}: {error}"}
    results[name]["row_seconds"] = round(time.monotonic() - begun, 1)
    say(f"{name}: {results[name].get('error', 'done')} ({results[name]['row_seconds']:.0f} s)")
    write_json(output / "gpu.json", results)
  for line in _table(results):
    say(line)
  return results


class Processes:
  """Programs that log their output and have to end before a deadline.

  Args:
    log: The log file.
    end: The deadline, on the monotonic clock.
  """

  def __init__(self, log: pathlib.Path, end: float):
    self.log = log
    self._end = end
    log.write_text("")

  def seconds_left(self) -> float:
    """Returns the seconds until the deadline, at least 0."""
    return max(0.0, self._end - time.monotonic())

  def call(
    self, function: str, *arguments: Any, environment: Mapping[str, str] | None = None
  ) -> Any:
    """Calls `module:function` of this package with JSON arguments and returns its result.

    Raises:
      RuntimeError: The call failed; the message has the last line of the log.
      TimeoutError: The deadline passed.
    """
    return self.wait(self.start(function, *arguments, environment=environment))

  def start(
    self, function: str, *arguments: Any, environment: Mapping[str, str] | None = None
  ) -> "subprocess.Popen[str]":
    """Starts a call without waiting for it; `wait` returns its result."""
    module, _, name = function.partition(":")
    code = (
      f"import json, sys; sys.path[:] = {sys.path!r}\n"
      f"from resnet_jax.benchmarks.gpu.{module} import {name}\n"
      f"print(json.dumps({name}(*json.loads({json.dumps(json.dumps(arguments))}))))"
    )
    with self.log.open("a") as log:
      return subprocess.Popen(
        [sys.executable, "-u", "-P", "-c", code],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | dict(environment or {}),
        start_new_session=True,
      )

  def wait(self, process: "subprocess.Popen[str]") -> Any:
    """Logs a program's output until it ends; returns its last line, parsed as JSON."""
    timer = threading.Timer(self.seconds_left(), lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    last = ""
    assert process.stdout
    with self.log.open("a") as log:
      for line in process.stdout:
        log.write(line)
        log.flush()
        last = line
    status = process.wait()
    timer.cancel()
    if status:
      lines = self.log.read_text().strip().splitlines() or [""]
      if not self.seconds_left():
        raise TimeoutError(f"out of time; the last line was: {lines[-1]}")
      raise RuntimeError(f"status {status}: {lines[-1]}")
    return json.loads(last)


def _numbers(processes: Processes) -> dict[str, Any]:
  """Compares this device's numbers with the CPU's, which are computed at the same time."""
  with tempfile.TemporaryDirectory() as folder:
    paths = [str(pathlib.Path(folder) / name) for name in ("cpu.npz", "device.npz")]
    exact = {"JAX_ENABLE_X64": "1"}
    on_cpu = exact | {"JAX_PLATFORMS": "cpu"}
    reference = processes.start("numbers:write", paths[0], environment=on_cpu)
    try:
      processes.call("numbers:write", paths[1], environment=exact)
      processes.wait(reference)
    finally:
      reference.kill()
    differences = compare(*map(pathlib.Path, paths))
  wrong = {name: pair for name, pair in differences.items() if not agree(pair)}
  values: dict[str, Any] = {"compared": len(differences), "differences": differences}
  if wrong:
    values["error"] = "; ".join(
      f"{name} differs by {'nan' if found is None else f'{found:.2g}'}, allowed: {allowed:.2g}"
      for name, (found, allowed) in wrong.items()
    )
  return values


def agree(pair: tuple[float | None, float]) -> bool:
  """Returns whether a difference is within its tolerance."""
  found, allowed = pair
  return found is not None and found <= allowed


def _peers(processes: Processes, plan: Plan) -> dict[str, Any]:
  """Measures training of ResNet-50 and its peers, and each side's share of the matmul rate."""
  rate = processes.call("matmul:matmul_flops_per_second", plan.matmul_size)
  # A turn that begins just before the limit may take half a minute more.
  minutes = max(1.0, processes.seconds_left() - 30) / 60
  values: dict[str, Any] = processes.call("resnet50:measure", {"minutes": minutes, **plan.peers})
  values["matmul_flops_per_second"] = rate
  for result in values["results"]:
    flops = flops_per_image(result["image_size"])
    for side in result["sides"].values():
      side["share_of_matmul_rate"] = side["images_per_second"] * flops / rate
  return values


def _seeds(processes: Processes, plan: Plan) -> dict[str, Any]:
  """Measures training of ResNet-20 with one seed and with several at once."""
  fields = {"limit": 0.7 * processes.seconds_left(), **plan.seeds}
  values: dict[str, Any] = processes.call("seeds:measure", fields)
  return values


def _table(results: Mapping[str, Any]) -> Iterator[str]:
  for name, values in results.items():
    if "error" in values:
      yield f"{name}: {values['error']}"
  if compared := results["numbers"].get("compared"):
    close = sum(map(agree, results["numbers"]["differences"].values()))
    yield f"numbers: {close} of {compared} parts agree with the CPU's"
  for result in results["peers"].get("results", ()):
    yield from table([result])
    rate = results["peers"]["matmul_flops_per_second"]
    shares = (
      f"{name} {side['share_of_matmul_rate']:.1%}" for name, side in result["sides"].items()
    )
    yield f"of {rate / 1e12:.1f} TFLOP/s, the rate of a bfloat16 product: {', '.join(shares)}"
  for row in results["seeds"].get("rows", ()):
    yield describe(row)
