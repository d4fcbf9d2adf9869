"""Checkpoints of a run: everything that it is, in one atomic unit, which proves itself whole.

A checkpoint is written under a temporary name, sealed with the digests of its files, and renamed.
So a directory that has a step as its name is whole, whenever the process or the machine died; and
if a disk changes it later, that is found out before anything is read.
"""

import json
import os
import pathlib
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import tqdm

from resnet_jax.errors import UserError
from resnet_jax.processes import from_first, is_first
from resnet_jax.run.arrays import Arrays, Layout, describe_differences, layout
from resnet_jax.run.checkpoint_folder import CheckpointFolder, NoCheckpointError
from resnet_jax.run.digests import damage

_NONE, _ERROR, _ABSENT = -1, -2, -3  # what processes tell each other instead of a step
_SHOWN = 200  # characters of an error of unknown kind


class SaveError(OSError):
  """A checkpoint could not be written."""


class Checkpoints:
  """The checkpoints of one run: the last few, and the best by a validation metric.

  With several processes all of them have to call every method but `steps` and `close`, in the same
  order. The first one looks for damage, and writes; the others read alone, what is the same file,
  or a copy of it.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    keep: int = 2,
    keep_best: int = 1,
    metric: str = "accuracy",
    read_only: bool = False,
  ):
    """Opens `workdir`/checkpoints, and removes what a kill left unfinished.

    Args:
      workdir: The run's directory.
      keep: How many of the latest are kept.
      keep_best: How many of the best are kept besides.
      metric: By which validation metric; one whose name ends in "loss" is better when lower.
      read_only: Never write or delete.
    """
    self._folder = CheckpointFolder((workdir / "checkpoints").resolve())
    self._keep, self._keep_best, self._metric = keep, keep_best, metric
    self._arrays = Arrays()
    self._writer: threading.Thread | None = None
    self._failure: str | None = None
    if not read_only and is_first():
      self._folder.prepare()

  def steps(self) -> list[int]:
    """Steps of which there is a checkpoint, ascending."""
    return self._folder.steps()

  def last(self) -> int | None:
    """The latest step, or None."""
    return _agree(lambda: max(self.steps(), default=None))

  def best(self) -> int | None:
    """The step of the best metric, the later of equals; None if none has one.

    Raises:
      UserError: A checkpoint's metrics are damaged, so that nobody knows.
    """
    return _agree(lambda: self._folder.best(self._metric))

  def save(
    self, step: int, state: Any, run: dict[str, Any], metrics: dict[str, float] | None
  ) -> None:
    """Saves in the background; returns once the arrays have been copied.

    Waits for the save before. If that failed, a line on standard error says so, and this one is
    tried nevertheless. Where the step has a whole checkpoint already, that one stays.

    Args:
      step: Number of steps done.
      state: Tree of replicated arrays.
      run: What JSON can hold of the rest.
      metrics: The validation metrics of this step, or None.
    """
    if failure := self._finish():
      _say(failure)
    # As texts, for the caller may change what it gave before the arrays are written.
    texts = {"run.json": json.dumps(run)}
    if metrics is not None:
      texts["metrics.json"] = json.dumps(metrics)
    if not is_first() or not self._make_room(step):
      return
    try:
      self._arrays.save(self._folder.temporary(step) / "state", state)
    except OSError as error:
      self._fail(step, error)
      return
    self._writer = threading.Thread(target=self._write, args=(step, texts))
    self._writer.start()

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """The state and the rest of a step, once its digests have shown that it is whole.

    Args:
      step: One of `steps()`.
      like: A tree of the state's structure, shapes, dtypes and shardings (arrays or
        `jax.ShapeDtypeStruct`).

    Raises:
      UserError: There is no such step, it is damaged, or it is of another network.
    """
    self._require_whole(step)
    return self._read(step, like), self._read_run(step)

  def restore_variables(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """Some top-level subtrees of a step's state, such as `params`; no other array is read.

    Args:
      step: One of `steps()`.
      like: The subtrees by name, as in `restore`.

    Raises:
      UserError: As in `restore`.
    """
    self._require_whole(step)
    return self._read(step, like, names=tuple(like))

  def restore_newest(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest whole checkpoint; newer ones that are damaged are moved aside, with a line.

    Args:
      like: As in `restore`.

    Returns:
      Its step, state and rest; None if there is no checkpoint at all.

    Raises:
      UserError: All are damaged (then none is moved), or it is of another network.
    """
    step = _agree(self._pass_over_damage)
    return None if step is None else (step, self._read(step, like), self._read_run(step))

  def metadata(self, step: int) -> Layout:
    """Shape and dtype of each array of a step's state, by its name.

    Raises:
      UserError: There is no such step, or it is damaged.
    """
    self._require_whole(step)
    return self._arrays.layout(self._folder[step] / "state")

  def wait(self) -> None:
    """Until what was saved is on disk.

    Raises:
      SaveError: The last save failed.
    """
    if failure := self._finish():
      raise SaveError(failure)

  def close(self) -> None:
    """Waits and frees what Orbax holds; a save that failed is said on standard error.

    Alone of all methods it asks no other process: it may be an error that ends this one.
    """
    self._join()
    if self._failure:
      _say(self._failure)
    self._arrays.close()

  def _make_room(self, step: int) -> bool:
    """Makes the directory to write to; False if it cannot be, or there is nothing to write."""
    try:
      if self._folder[step].exists():
        if damage(self._folder[step]) is None:
          return False
        self._folder.move_aside(step)
      self._folder.discard(step)
      self._folder.temporary(step).mkdir(parents=True)
    except OSError as error:
      self._fail(step, error)
      return False
    return True

  def _write(self, step: int, texts: dict[str, str]) -> None:
    """What the background thread does: waits for the arrays, adds the rest, seals and renames."""
    try:
      self._arrays.wait()
      self._folder.commit(step, texts)
    except Exception as error:  # Of whatever kind: the run shall go on, and a line says it.
      self._fail(step, error)
      return
    self._folder.prune(self._keep, self._keep_best, self._metric)

  def _fail(self, step: int, error: Exception) -> None:
    self._failure = (
      f"checkpoint of step {step} could not be saved ({_reason(error)}); the earlier ones are kept"
    )
    self._folder.discard(step)

  def _finish(self) -> str | None:
    """Waits for the save under way; what went wrong with the last one, if that is not said yet."""
    self._join()
    failure, self._failure = self._failure, None
    # The first process renames, so it knows whether there is a checkpoint.
    if not from_first(failure is not None):
      return None
    return failure or "a checkpoint could not be saved: the first process says why"

  def _join(self) -> None:
    """Waits for the save under way."""
    if self._writer is not None:
      self._writer.join()
      self._writer = None

  def _pass_over_damage(self) -> int | None:
    step, damages = self._folder.newest_whole()
    if step is None and damages:
      found = "; ".join(f"step {step} ({what})" for step, what in damages.items())
      raise UserError(
        f"no checkpoint in {self._folder.path} is whole: {found}. Put back a copy of one, or "
        "choose another --workdir to begin anew"
      )
    for damaged, what in damages.items():
      aside = self._folder.move_aside(damaged)
      _say(
        f"checkpoint of step {damaged} is damaged ({what}): moved to {aside}; going on from step "
        f"{step}"
      )
    return step

  def _require_whole(self, step: int) -> None:
    def look() -> int:
      self._folder.require_whole(step)
      return step

    _agree(look)

  def _read(self, step: int, like: Any, names: tuple[str, ...] | None = None) -> Any:
    """The state of a step that is whole, or of `names` alone."""
    path = self._folder[step]
    try:
      stored = self._arrays.layout(path / "state")
      if names is not None:
        stored = {name: of for name, of in stored.items() if name.split("/")[0] in names}
      differing = describe_differences(stored, layout(like))
      if differing is None:
        return self._arrays.restore(path / "state", like)
    except Exception:
      if jax.process_count() == 1:  # A run that is being trained may have deleted it meanwhile.
        self._folder.require_whole(step)
      raise
    raise UserError(f"checkpoint {path} is of another network or optimizer: {differing}")

  def _read_run(self, step: int) -> dict[str, Any]:
    return json.loads((self._folder[step] / "run.json").read_text())


def _agree(find: Callable[[], int | None]) -> int | None:
  """What the first process finds, in every process; its mistakes are raised in every process."""
  step, problem = None, None
  if is_first():
    try:
      step = find()
    except UserError as error:
      problem = error
  code = _NONE if step is None else step
  if problem is not None:
    code = _ABSENT if isinstance(problem, NoCheckpointError) else _ERROR
  code = from_first(code)
  if code == _ABSENT:
    raise problem or NoCheckpointError("there is no such checkpoint: the first process names it")
  if code == _ERROR:
    raise problem or UserError("a checkpoint is damaged: the first process names it")
  return None if code == _NONE else code


def _reason(error: BaseException) -> str:
  """Why a save failed, in a few words: the operating system's, where it was that which failed."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  # What writes the arrays has the system's number in a long text.
  if number := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(number[1]))
  return f"{type(error).__name__}: {str(error)[:_SHOWN]}"


def _say(line: str) -> None:
  """A line on standard error, above a progress bar if there is one."""
  tqdm.tqdm.write(line, file=sys.stderr)
