"""What the process of a run does before it becomes `resnet-jax train`: run as a script, by path.

    python child.py CORES COMMAND…

It leaves a watcher behind: should the sweep that started it die, by whatever signal, the run gets
SIGTERM, saves and ends, and a second call of the sweep finds its directory free. The kernel's own
signal at a parent's death (prctl) comes once for each of the parent's threads, and a second SIGTERM
ends a run before it has saved. CORES are those that it may use, such as "0,1", or "" for all.

Standard input is a pipe that the sweep holds open and writes nothing to.
"""

import os
import select
import signal
import sys

_LOOK_SECONDS = 0.5


def main() -> None:
  """Becomes the command."""
  cores, *command = sys.argv[1:]
  if cores:
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
  run = os.getpid()
  if os.fork() == 0:
    _watch(run)
    os._exit(0)
  nothing = os.open(os.devnull, os.O_RDONLY)
  os.dup2(nothing, sys.stdin.fileno())
  os.execvp(command[0], command)


def _watch(run: int) -> None:
  """Sends SIGTERM to a run, the parent of this process, when the pipe's other end is closed."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)  # The sweep sends it to the whole group.
  while os.getppid() == run:
    if select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
      if os.getppid() == run:
        os.kill(run, signal.SIGTERM)
      return


if __name__ == "__main__":
  main()
