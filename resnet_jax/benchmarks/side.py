"""One side of a benchmark, in a process of its own that is stopped while the others are measured.

Data pipelines read ahead. If one kept filling its buffers after its turn, it would take CPU time
from the next side, and begin its own next turn with batches that cost nothing. So a side's process
and its children are stopped (SIGSTOP) between turns, and resume afterwards.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import UserError


class Side:
  """The process of a side, which opens its work and warms up; see `worker.py`.

  Args:
    name: Its name in messages.
    opener: "module:name" of a function from the task to `Work`.
    task: A dataclass whose fields can be written as JSON.
    install: The command that installs the opener's libraries, for the error if one is missing.
    environment: Environment variables to set on top of this process's.
  """

  def __init__(
    self,
    name: str,
    opener: str,
    task: Any,
    install: str = "",
    environment: Mapping[str, str] | None = None,
  ):
    self.name = name
    self._install = install
    # The child imports the package from where this process found it.
    code = (
      f"import sys; sys.path[:] = {sys.path!r}\n"
      "from resnet_jax.benchmarks.worker import main; main()"
    )
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`close` closes it)
    self._process = subprocess.Popen(
      [sys.executable, "-P", "-c", code],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      env=os.environ | dict(environment or {}),
      # A group of its own, in the same session: signals reach its children too, and if this process
      # is killed, the kernel ends the orphaned group.
      process_group=0,
    )
    kind = f"{type(task).__module__}:{type(task).__qualname__}"
    self._send({"opener": opener, "kind": kind, "task": dataclasses.asdict(task)})

  def wait_until_ready(self) -> None:
    """Waits for the end of the warm-up, then stops the process.

    Raises:
      UserError: A library is not installed, or the side cannot read the data.
      RuntimeError: The process failed; the message has the end of its standard error.
    """
    self._receive()
    self._signal(signal.SIGSTOP)

  def measure(self, **arguments: Any) -> dict[str, Any]:
    """Resumes the process for one measurement and returns the result; see `worker.measure`."""
    self._signal(signal.SIGCONT)
    self._send(arguments)
    answer = self._receive()
    self._signal(signal.SIGSTOP)
    return answer

  def close(self) -> None:
    """Ends the process and its children."""
    with contextlib.suppress(ProcessLookupError):
      self._signal(signal.SIGKILL)
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(OSError):
        pipe.close()  # type: ignore[union-attr]
    self._process.wait()
    self._errors.close()

  def _send(self, values: dict[str, Any]) -> None:
    assert self._process.stdin
    # If the process has ended, `_receive` reports it.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(values) + "\n")
      self._process.stdin.flush()

  def _receive(self) -> dict[str, Any]:
    assert self._process.stdout
    line = self._process.stdout.readline()
    if not line:
      status = self._process.wait()  # Before reading: the traceback is written last.
      self._errors.seek(0)
      last = "".join(self._errors.readlines()[-20:])
      raise RuntimeError(f"{self.name} ended with status {status}:\n{last}")
    answer: dict[str, Any] = json.loads(line)
    if "missing" in answer:
      raise UserError(f"{self.name} cannot be measured ({answer['missing']}): {self._install}")
    if "user_error" in answer:
      raise UserError(answer["user_error"])
    return answer

  def _signal(self, number: signal.Signals) -> None:
    os.killpg(self._process.pid, number)
