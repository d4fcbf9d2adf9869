"""Stands for `resnet-jax`: does at once what `--act` says, and leaves what a training leaves.

Without `--act` it is a trial of a search, whose learning rate is its validation error at the end.
From 0.5 on it takes long after its first record, unless it goes on; from 0.6 on it diverges.
"""

import json
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


def train() -> None:
  """Four records; goes on after those that are there."""
  signal.signal(signal.SIGTERM, lambda *_: save(75))
  rate = float(field("optimizer.learning_rate"))
  if rate >= 0.6:
    sys.exit("training diverged") if rate >= 0.7 else os._exit(2)
  path = workdir / "metrics.jsonl"
  (workdir / "config.json").write_text('{"model": {"name": "stub"}}')
  for step in (10, 20, 30, 40):
    if path.exists() and len(path.read_text().splitlines()) >= step // 10:
      continue
    accuracy = 1 - rate * (1 + (40 - step) / 100)
    with path.open("a") as file:
      file.write(json.dumps({"step": step, "split": "validation", "accuracy": accuracy}) + "\n")
    time.sleep(30 if rate >= 0.5 and step == 10 else 0.01)
  (workdir / "checkpoints" / "40").mkdir(parents=True)


def field(name: str) -> str:
  prefix = f"--config.{name}="
  return next(word for word in sys.argv if word.startswith(prefix)).removeprefix(prefix)


act = option("--act") if "--act" in sys.argv else ""
workdir = pathlib.Path(option("--workdir"))
with (workdir / "starts").open("a") as file:
  print(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
starts = len((workdir / "starts").read_text().splitlines())
print(f"start {starts}", flush=True)
if not act:
  train()
  sys.exit(0)
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
