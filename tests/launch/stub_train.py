"""Stands for `resnet-jax`: does at once what `--act` says, and leaves what a training leaves."""

import os
import pathlib
import signal
import sys
import time


def option(name: str) -> str:
  return sys.argv[sys.argv.index(name) + 1]


def save(status: int) -> None:
  """As a training, which a second SIGTERM ends before it has saved; if patient, not at once."""
  if act == "patient":
    signal.signal(signal.SIGTERM, lambda *_: None)
    time.sleep(0.5)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  time.sleep(0.5)
  (workdir / "saved").write_text("")
  sys.exit(status)


workdir, act = pathlib.Path(option("--workdir")), option("--act")
with (workdir / "starts").open("a") as file:
  print(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
starts = len((workdir / "starts").read_text().splitlines())
print(f"start {starts}", flush=True)
if act in ("wait", "patient") and starts == 1:
  signal.signal(signal.SIGTERM, lambda *_: save(75))
  (workdir / "waits").write_text("")
  time.sleep(60)
if act == "killed" and starts == 1:
  os.kill(os.getpid(), signal.SIGKILL)
if not os.isatty(0) and sys.stdin.read():
  sys.exit("there is something on standard input")
if act.isdecimal() and (starts == 1 or act in ("1", "2")):
  print(f"the reason of {act}\n", file=sys.stderr)
  sys.exit(int(act))
time.sleep(0.2)
(workdir / "checkpoints" / "10").mkdir(parents=True)
