"""What the process of a run does before it becomes `resnet-jax train`: run as a script, by path.

    python child.py PARENT CORES COMMAND…

If the sweep that started it dies, by whatever signal, the kernel sends it SIGTERM: it saves and
ends, and a second call of the sweep finds its directory free. (Linux alone; elsewhere it trains on,
and the second call waits for it.) CORES are those that it may use, such as "0,1", or "" for all.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_EXIT_PREEMPTED = 75


def main() -> None:
  """Becomes the command."""
  parent, cores, *command = sys.argv[1:]
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if cores:
      os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
  if os.getppid() != int(parent):  # It died before that.
    sys.exit(_EXIT_PREEMPTED)
  os.execvp(command[0], command)


if __name__ == "__main__":
  main()
