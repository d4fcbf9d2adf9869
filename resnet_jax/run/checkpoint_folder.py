"""The folder of a run's checkpoints: names, renames and deletions that a kill cannot tear.

    STEP             whole when it got this name
    STEP.tmp         being written
    STEP.old.tmp     being deleted
    STEP.damaged     found damaged, and moved aside; nothing here touches it again

Arrays do not occur here, nor other processes: one process changes the folder.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Mapping

from resnet_jax.errors import UserError
from resnet_jax.run import digests, retention
from resnet_jax.run.files import sync


class NoCheckpointError(UserError):
  """There is no checkpoint of this step, or not any more."""


class CheckpointFolder:
  """The checkpoints in a folder, by step."""

  def __init__(self, path: pathlib.Path):
    """Names the folder; nothing is read or written yet."""
    self.path = path

  def __getitem__(self, step: int) -> pathlib.Path:
    """Where the checkpoint of a step lies, whether it is there or not."""
    return self.path / str(step)

  def steps(self) -> list[int]:
    """Steps of which there is a checkpoint, ascending."""
    if not self.path.is_dir():
      return []
    return sorted(int(path.name) for path in self.path.iterdir() if path.name.isdecimal())

  def prepare(self) -> None:
    """Makes the folder, and removes what a kill left unfinished."""
    self.path.mkdir(parents=True, exist_ok=True)
    for path in self.path.iterdir():
      if re.fullmatch(r"\d+(\.old)?\.tmp", path.name):
        shutil.rmtree(path)

  def temporary(self, step: int) -> pathlib.Path:
    """Where the checkpoint of a step is written."""
    return self.path / f"{step}.tmp"

  def commit(self, step: int, texts: Mapping[str, str]) -> None:
    """Adds files to the temporary directory of a step, seals it, and gives it its name.

    Args:
      step: The step.
      texts: Content of the files by name.
    """
    temporary = self.temporary(step)
    for name, text in texts.items():
      (temporary / name).write_text(text + "\n")
    digests.seal(temporary)
    temporary.rename(self[step])
    sync(self.path)

  def discard(self, step: int) -> None:
    """Removes the temporary directory of a step, as far as that can be done."""
    shutil.rmtree(self.temporary(step), ignore_errors=True)

  def move_aside(self, step: int) -> str:
    """Gives a damaged checkpoint another name, under which it is kept; returns that name."""
    aside, number = self.path / f"{step}.damaged", 1
    while aside.exists():
      number += 1
      aside = self.path / f"{step}.damaged{number}"
    self[step].rename(aside)
    return f"{self.path.name}/{aside.name}"

  def newest_whole(self) -> tuple[int | None, dict[int, str]]:
    """The newest step that is whole, if any is; and what is wrong with each newer one."""
    damages: dict[int, str] = {}
    for step in reversed(self.steps()):
      what = digests.damage(self[step])
      if what is None:
        return step, damages
      damages[step] = what
    return None, damages

  def require_whole(self, step: int) -> None:
    """Looks at the digest of every file of a step.

    Raises:
      NoCheckpointError: There is no such step.
      UserError: It is damaged: what, and which others are whole.
    """
    if what := digests.damage(self[step]):
      self._refuse(step, what)

  def best(self, metric: str) -> int | None:
    """The step of the best metric, the later of equals; None if none has one.

    Raises:
      UserError: A checkpoint's metrics are damaged, so that nobody knows.
    """
    steps = retention.best_first({step: self._score(step, metric) for step in self.steps()})
    return steps[0] if steps else None

  def prune(self, keep: int, keep_best: int, metric: str) -> None:
    """Deletes what is not kept, once a newer checkpoint is whole: the newest always stays."""
    scores: dict[int, float | None] = {}
    for step in self.steps():
      try:
        scores[step] = self._score(step, metric)
      except UserError:  # Its metrics are damaged: it may be the best, so it stays.
        continue
    for step in scores.keys() - retention.kept(scores, keep, keep_best):
      old = self.path / f"{step}.old.tmp"
      try:
        # Renamed first: a kill in the middle of deleting leaves nothing that looks whole.
        self[step].rename(old)
        shutil.rmtree(old)
      except OSError:  # Tried again after the next save, or at the next start.
        continue

  def _score(self, step: int, metric: str) -> float | None:
    if what := digests.damage(self[step], only="metrics.json"):
      self._refuse(step, what)
    path = self[step] / "metrics.json"
    metrics = json.loads(path.read_text()) if path.exists() else None
    return retention.score(metrics, metric)

  def _refuse(self, step: int, what: str) -> None:
    # A run that is being trained may have deleted it meanwhile.
    if not self[step].exists():
      there = self.steps() or "none"
      raise NoCheckpointError(f"there is no checkpoint of step {step}; there are {there}")
    others = (other for other in self.steps() if other != step)
    whole = [str(other) for other in others if digests.damage(self[other]) is None]
    raise UserError(
      f"checkpoint {self[step]} is damaged ({what}); whole: {', '.join(whole) or 'none'}"
    )
