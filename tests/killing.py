"""Training runs in processes of their own: started, watched, ended at a moment, and compared.

What a run is doing is seen from outside, by what lies in its directory: while it runs, to choose
the moment of a signal; and after it has died, to say where the signal met it.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from one_device import ONE_DEVICE

from resnet_jax.run import read_config
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.records import read_records
from resnet_jax.training import Config, build_run
from resnet_jax.training.restore import abstract_state

START_UP = "start-up"  # the process has written nothing
RESTORE = "restore"  # it holds the directory, and its records are not open yet
FIRST_STEP = "first step"  # they are, and nothing was recorded or saved: it compiles and steps
STEP = "step"
EVALUATION = "evaluation"  # of a step whose training metrics are recorded
BETWEEN = "between a record and its checkpoint"
SAVE = "save"
DELETION = "deletion"  # of a checkpoint that is not kept
END = "end"  # the last step is saved
PHASES = (START_UP, RESTORE, FIRST_STEP, STEP, EVALUATION, BETWEEN, SAVE, DELETION, END)

_POLL_SECONDS = 0.0003
_TAIL_BYTES = 1024  # of the records: more than the last one has


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is run: a small network on one CPU device, for as many steps, and how often it writes.

  A save takes as long as some twenty steps: so much is between two, or little but saves would be
  seen. They are not at multiples of the log's interval, so that a checkpoint holds a part of it.
  """

  length: int = 80
  log_every: int = 4
  evaluate_every: int = 40
  save_every: int = 18

  def arguments(self, workdir: pathlib.Path) -> list[str]:
    fields = {
      # What else a state can hold: an average, and what the plateau rule has seen.
      "ema_decay": 0.9,
      "schedule.kind": "plateau",
      "schedule.plateau.patience": 0,
      "model.width": 8,
      "batch_size": 32,
      "length": f"{self.length} steps",
      "log_every": f"{self.log_every} steps",
      "evaluate_every": f"{self.evaluate_every} steps",
      "evaluation_batch_size": 1,
      "checkpoint.every": f"{self.save_every} steps",
    }
    return [
      *("train", "--config", "digits", "--workdir", str(workdir)),
      *("--config.model.stage_sizes", "1", "1", "1"),
      *(f"--config.{name}={value}" for name, value in fields.items()),
    ]

  def evaluates(self, step: int) -> bool:
    return step == self.length or step % self.evaluate_every == 0

  def saves(self, step: int) -> bool:
    return self.evaluates(step) or step % self.save_every == 0


@dataclasses.dataclass(frozen=True)
class Sight:
  """What lies in a run's directory at one moment."""

  locked: int  # when the lock was last written
  starts: int  # how often its records were opened
  step: int  # of the newest record
  split: str
  saved: int  # step of the newest checkpoint, or 0
  saving: bool
  deleting: bool


def look(workdir: pathlib.Path) -> Sight:
  """Reads first what is written first: a live run shows no record whose checkpoint is missed."""
  starts = sum(name.startswith("events") for name in os.listdir(workdir))
  try:
    locked = os.stat(workdir / "lock").st_mtime_ns
  except FileNotFoundError:
    locked = 0
  step, split = _newest_record(workdir / "metrics.jsonl")
  try:
    names = os.listdir(workdir / "checkpoints")
  except FileNotFoundError:
    names = []
  return Sight(
    locked,
    starts,
    step,
    split,
    saved=max((int(name) for name in names if name.isdecimal()), default=0),
    saving=any(re.fullmatch(r"\d+\.tmp", name) for name in names),
    deleting=any(name.endswith(".old.tmp") for name in names),
  )


def _newest_record(path: pathlib.Path) -> tuple[int, str]:
  try:
    with path.open("rb") as file:
      file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
      lines = file.read().split(b"\n")
  except FileNotFoundError:
    return 0, ""
  if len(lines) < 2:
    return 0, ""
  record = json.loads(lines[-2])  # what follows the last newline is incomplete, or nothing
  return record["step"], record["split"]


def phase(settings: Settings, before: Sight, now: Sight) -> str:
  """What a process was doing `now`, which found the directory as it was `before`.

  Where two could be said, as of a record that waits for the save before, it is the save.
  """
  if now.locked == before.locked:
    return START_UP
  if now.starts == before.starts:
    return RESTORE
  if now.saving:
    return SAVE
  if now.deleting:
    return DELETION
  if now.saved == settings.length:
    return END
  if now.step > now.saved:
    if settings.evaluates(now.step) and now.split == "train":
      return EVALUATION
    if settings.saves(now.step):
      return BETWEEN
  if now.saved == before.saved and now.step <= before.saved:
    return FIRST_STEP
  return STEP


class Process:
  """A start of a run; within `with`, after which it is dead."""

  def __init__(self, settings: Settings, workdir: pathlib.Path):
    workdir.mkdir(parents=True, exist_ok=True)
    self.settings, self.workdir = settings, workdir
    self.before = look(workdir)
    self._output = workdir.with_name(workdir.name + ".out").open("w+")
    self._process = subprocess.Popen(
      [sys.executable, "-m", "resnet_jax", *settings.arguments(workdir)],
      env=os.environ | ONE_DEVICE,
      stdout=self._output,
      stderr=subprocess.STDOUT,
    )

  def __enter__(self) -> "Process":
    return self

  def __exit__(self, *_: object) -> None:
    self._process.kill()
    self._process.wait()
    self._output.close()

  def phases(self) -> Iterator[str]:
    """The phase that it is in, again and again while it lives."""
    while self._process.poll() is None:
      yield self.phase()
      time.sleep(_POLL_SECONDS)

  def phase(self) -> str:
    return phase(self.settings, self.before, look(self.workdir))

  def send(self, number: int) -> None:
    self._process.send_signal(number)

  def wait(self, seconds: float = 300) -> int:
    return self._process.wait(seconds)

  def output(self) -> str:
    self._output.flush()
    return pathlib.Path(self._output.name).read_text()


@dataclasses.dataclass(frozen=True)
class Moment:
  """When a signal is sent: some seconds after a phase has begun for the `time`-th time."""

  target: str
  time: int
  seconds: float

  def come(self, process: Process) -> bool:
    """Waits for it; False if the process ended before."""
    begun, last = 0, None
    for now in process.phases():
      begun += now == self.target != last
      last = now
      if begun == self.time:
        time.sleep(self.seconds)
        return True
    return False


class Reference:
  """A run that was never killed, how long its phases were, and what others must be equal to."""

  def __init__(self, settings: Settings, workdir: pathlib.Path):
    self.settings = settings
    # Of each phase as often as it came: the seconds, and what was saved at their end.
    self._seen: dict[str, list[tuple[float, int]]] = collections.defaultdict(list)
    begun = since = time.monotonic()
    with Process(settings, workdir) as process:
      last = START_UP
      for now in process.phases():
        if now != last:
          self._seen[last].append((time.monotonic() - since, look(workdir).saved))
          last, since = now, time.monotonic()
      self._seen[last].append((time.monotonic() - since, settings.length + 1))
      assert process.wait() == 0, process.output()
    self._seconds = time.monotonic() - begun
    self._records, self._best = records(workdir), best_step(workdir)
    self._last = last_checkpoint(workdir)

  def draw(self, generator: np.random.Generator, target: str, workdir: pathlib.Path) -> Moment:
    """A random moment of a phase, at one of the next three times that it comes."""
    saved = look(workdir).saved if workdir.exists() else 0
    seen = self._seen[target] or [(0.01, 0)]
    ahead = sum(1 for _, after in seen if after > saved)
    time = int(generator.integers(min(3, max(ahead, 1)))) + 1
    seconds = generator.choice([seconds for seconds, _ in seen])
    return Moment(target, time, generator.uniform(0, seconds))

  def draw_any(self, generator: np.random.Generator) -> Moment:
    """A random moment between the start and the end of a whole run."""
    return Moment(START_UP, 1, generator.uniform(0, self._seconds))

  def require_kept(self, workdir: pathlib.Path) -> None:
    """A run that was stopped has the records of all that its last checkpoint stands for."""
    saved = look(workdir).saved
    ours = [record for record in records(workdir) if record["step"] <= saved]
    assert ours == [record for record in self._records if record["step"] <= saved]

  def require_same(self, workdir: pathlib.Path) -> None:
    """A run that has come to its end has the records of this one, and its last bits."""
    assert records(workdir) == self._records
    assert not list(workdir.glob("checkpoints/*.tmp"))
    assert best_step(workdir) == self._best
    last = last_checkpoint(workdir)
    assert last.keys() == self._last.keys()
    for name, array in self._last.items():
      assert last[name].dtype == array.dtype, name
      assert last[name].tobytes() == array.tobytes(), name


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Less what depends on the clock."""
  return [
    {name: value for name, value in record.items() if name != "images_per_second"}
    for record in read_records(workdir)
  ]


def best_step(workdir: pathlib.Path) -> int | None:
  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    return checkpoints.best()


def last_checkpoint(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """The bytes of everything in it: arrays by name, and its files of text."""
  run = build_run(read_config(workdir, Config))
  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    step = max(checkpoints.steps())
    state, rest = checkpoints.restore(step, abstract_state(run))
  leaves = jax.tree_util.tree_leaves_with_path(state)
  arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
  texts = {"step": str(step), "run.json": json.dumps(rest, sort_keys=True)}
  metrics = workdir / "checkpoints" / str(step) / "metrics.json"
  texts["metrics.json"] = metrics.read_text() if metrics.exists() else ""
  return arrays | {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
