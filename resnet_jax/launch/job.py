"""One run of a sweep, ready to be started; and what a launcher is."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from resnet_jax.run.checkpoint_folder import CheckpointFolder

# What its `train` is an argument of, wherever the package is installed.
PROGRAM = ("resnet-jax",)
# The same, of this interpreter and its packages, whether or not the console script is on the path.
THIS = (sys.executable, "-m", "resnet_jax")


@dataclasses.dataclass(frozen=True)
class Job:
  """One run of a sweep.

  Attributes:
    name: Its number in the sweep and the name of its directory, "000".
    workdir: Its directory.
    shown: Values by field that tell it from the other runs.
    arguments: `train --config … --workdir … --config.FIELD=VALUE …`, word by word.
    steps: Length of its training; None where that takes data that is not here.
    works_in: Where a process on this machine that trains it has its lock, if not in `workdir`.
  """

  name: str
  workdir: pathlib.Path
  shown: Mapping[str, Any]
  arguments: Sequence[str]
  steps: int | None
  works_in: pathlib.Path | None = None

  def is_finished(self) -> bool:
    """Whether its last step is saved: what `train` itself would go on from."""
    saved = CheckpointFolder(self.workdir / "checkpoints").steps()
    return self.steps is not None and bool(saved) and saved[-1] >= self.steps


@dataclasses.dataclass(frozen=True)
class Ending:
  """How a launcher came to an end.

  Attributes:
    failures: By the name of each run that failed, what it last said.
    interrupted: Whether it was told to stop, and the runs that were under way are saved.
  """

  failures: Mapping[str, str] = dataclasses.field(default_factory=dict)
  interrupted: bool = False


class Stream(Protocol):
  """Runs that are not known beforehand: each may follow from what became of those before it."""

  def next(self) -> tuple[Job, str] | None:
    """The next run, and why it cannot be trained ("" if it can); None if there is none now."""

  def look(self, job: Job) -> str:
    """What a run that trains has recorded: why it is to be stopped for good, or ""."""

  def ended(self, job: Job, failure: str) -> None:
    """A run is finished, or has failed for good: then what it last said. Not if it was stopped."""


class Launcher(Protocol):
  """What starts runs. All give the same `resnet-jax train` commands to something that runs them."""

  def lines(self, jobs: Sequence[Job]) -> list[str]:
    """What `launch` would do with these runs, as lines for a shell."""

  def launch(self, jobs: Sequence[Job]) -> Ending:
    """Does it; returns once there is nothing left for it to do."""
