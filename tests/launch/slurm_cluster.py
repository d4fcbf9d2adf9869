"""A Slurm of one node, for tests: on this machine, in a folder of its own, gone behind the test."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping

DAEMONS = ("munged", "slurmctld", "slurmd")
_START_SECONDS = 60
# Or a test that is killed would leave its daemons.
_TIED = ("setpriv", "--pdeathsig", "TERM")
# Tasks that `hurry` has seen, with the number of their starts.
_hurried: set[tuple[str, str, str]] = set()
_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"

# Accounting is absent, as on many clusters. Jobs in `urgent` displace those in `main`, the default.
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str:
  """Why there can be no cluster here; empty if there can be."""
  absent = [name for name in DAEMONS if not shutil.which(name, path=_PATH)]
  if absent:
    return f"{' and '.join(absent)} not installed (apt-get install slurm-wlm munge)"
  return "" if os.geteuid() == 0 else "Slurm's daemons of a test need root"


@contextlib.contextmanager
def cluster(
  folder: pathlib.Path, cpus: int = 2, kill_wait: int = 10
) -> Iterator[Mapping[str, str]]:
  """Starts it; ends it for certain.

  Args:
    folder: An empty folder for all that it writes. Short: a socket's path has 107 characters.
    cpus: How many the node says that it has.
    kill_wait: Seconds between SIGTERM and SIGKILL.

  Yields:
    Variables with which its commands find it.
  """
  host = socket.gethostname().partition(".")[0]
  controller_port, node_port = _free_ports(2)
  for name in ("state", "spool"):
    (folder / name).mkdir(parents=True)
  folder.chmod(0o755)
  conf = folder / "slurm.conf"
  conf.write_text(
    _CONF.format(
      host=host,
      folder=folder,
      controller_port=controller_port,
      node_port=node_port,
      cpus=cpus,
      kill_wait=kill_wait,
    )
  )
  key = folder / "munge.key"
  key.touch(0o600)
  key.write_bytes(os.urandom(128))
  munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket"]
  munged += [f"--key-file={key}", f"--pid-file={folder}/munged.pid"]
  munged += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"]
  environment = {"SLURM_CONF": str(conf)}
  everything = {n: v for n, v in os.environ.items() if not n.startswith(("SLURM", "SBATCH"))}
  everything |= environment | {"PATH": _PATH}
  commands = [munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c", "-N", host]]
  processes: list[subprocess.Popen] = []
  try:
    for command in commands:
      log = (folder / f"{command[0]}.out").open("wb")
      processes.append(
        subprocess.Popen(
          [*_TIED, *command],
          env=everything,
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=log,
          process_group=0,
        )
      )
      log.close()
      if command is munged:
        _wait((folder / "munge.socket").exists, folder)
    _wait(lambda: _is_idle(everything), folder)
    yield environment
  finally:
    _end(processes, folder, everything)


def hurry() -> int:
  """Has tasks that were requeued start in two seconds instead of in two minutes. Gives 0.

  In the second in which it was requeued a task cannot start ("job credential revoked").
  """
  columns = "--Format=JobArrayID:30,Reason:30,RestartCnt:30"
  command = ["squeue", "--noheader", "--array", "--states=PENDING", columns]
  listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
  for line in listed.splitlines():
    task, *reason, restarts = line.split()  # A reason may be several words.
    key = os.environ["SLURM_CONF"], task, restarts
    if reason == ["BeginTime"] and key not in _hurried:
      _hurried.add(key)
      update = ["scontrol", "update", f"JobId={task}", "StartTime=now+2"]
      subprocess.run(update, capture_output=True, check=False)
  return 0


def _end(processes: list[subprocess.Popen], folder: pathlib.Path, environment: dict) -> None:
  """Cancels what runs, then ends the daemons, the last first."""
  with contextlib.suppress(subprocess.SubprocessError, OSError):
    cancel = ["scancel", "--full", "--signal=KILL", f"--user={os.geteuid()}"]
    subprocess.run(cancel, env=environment, timeout=20, capture_output=True, check=False)
    time.sleep(0.5)
  for process in reversed(processes):
    process.terminate()
    try:
      process.wait(15)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
  # What slurmd starts (slurmstepd, and the jobs below it) outlives it.
  for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdecimal() and int(entry.name) != os.getpid():
      with contextlib.suppress(OSError):
        if f"SLURM_CONF={folder}/".encode() in (entry / "environ").read_bytes():
          os.kill(int(entry.name), signal.SIGKILL)


def _is_idle(environment: dict) -> bool:
  command = ["sinfo", "--noheader", "--partition=main", "--format=%T"]
  try:
    done = subprocess.run(
      command, env=environment, timeout=20, capture_output=True, text=True, check=False
    )
  except subprocess.TimeoutExpired:
    return False
  return done.stdout.strip() == "idle"


def _wait(condition, folder: pathlib.Path) -> None:
  end = time.monotonic() + _START_SECONDS
  while not condition():
    if time.monotonic() > end:
      said = [path.read_text()[-500:] for path in (*folder.glob("*.out"), *folder.glob("*.log"))]
      raise TimeoutError("Slurm did not start: " + "\n".join(said))
    time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for one in sockets:
      one.bind(("127.0.0.1", 0))
    return [one.getsockname()[1] for one in sockets]
