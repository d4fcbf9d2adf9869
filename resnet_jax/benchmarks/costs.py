"""What a process has cost so far: CPU time, its children's included, and memory."""

import contextlib
import multiprocessing
import pathlib
import time

_STATUS = pathlib.Path("/proc/self/status")


def cpu_seconds() -> float:
  """CPU time, user and system, of all threads of this process and of its live children.

  The children are those started through `multiprocessing`. (`resource.RUSAGE_CHILDREN` would count
  them only once they have ended, with all that they did before the measurement.)
  """
  children = multiprocessing.active_children()
  return time.process_time() + sum(
    # Linux's clock of another process: clock_getcpuclockid(3), which Python does not offer.
    time.clock_gettime(~child.pid << 3 | 2)
    for child in children
    if child.pid is not None
  )


def resident_bytes() -> int | None:
  """Memory of this process that is resident now; None where the system does not tell."""
  return _status("VmRSS")


def peak_resident_bytes() -> int | None:
  """The most that has been resident since the start, or since `forget_peak`."""
  return _status("VmHWM")


def forget_peak() -> None:
  """Lets `peak_resident_bytes` begin anew, where the system can."""
  with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int | None:
  # Not resource's ru_maxrss: a process inherits that from the one that started it.
  try:
    lines = _STATUS.read_text().splitlines()
  except OSError:
    return None
  values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
  return 1024 * int(values[0]) if values else None
