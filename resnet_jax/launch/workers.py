"""The processes that work on one search: which are alive, and who takes over from the dead.

DIR/workers/NAME/lock    held by a process while it works, as a run's directory is by its training
DIR/lock                 held for a moment, while one alone may write
"""

import contextlib
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Collection, Iterator

from resnet_jax.errors import UserError
from resnet_jax.run.lock import STALE_SECONDS, holder_of, locked

_POLL_SECONDS = 0.1


class Worker:
  """This process, among those that work on a search."""

  def __init__(self, directory: pathlib.Path):
    """Holds nothing yet.

    Args:
      directory: The search's directory, which need not be there.
    """
    self._folder = directory / "workers"
    self._locks = contextlib.ExitStack()
    self._names: set[str] = set()
    self.name = uuid.uuid4().hex[:12]

  def begin(self) -> None:
    """From now on it is alive."""
    self._hold(self.name)

  def end(self, needed: Collection[str]) -> None:
    """From now on it is dead.

    Args:
      needed: Workers that something belongs to still. The locks of others are removed: those of
        these might be taken at this very moment.
    """
    for name in self._names - set(needed):
      shutil.rmtree(self._folder / name, ignore_errors=True)
    self._locks.close()

  def is_here(self, name: str) -> bool:
    """Whether what belongs to a worker is this process's: it is this one, or dead.

    What belonged to a dead one is this process's from then on: it holds the lock of both.
    """
    if name in self._names:
      return True
    if self.holder(name):
      return False
    with contextlib.suppress(UserError):  # Another one was faster.
      self._hold(name)
    return name in self._names

  def holder(self, name: str) -> str | None:
    """Which process a worker is, or has been taken over by, in words; None if it is dead."""
    return holder_of(self._folder / name)

  def _hold(self, name: str) -> None:
    self._locks.enter_context(locked(self._folder / name))
    self._names.add(name)


@contextlib.contextmanager
def alone(directory: pathlib.Path) -> Iterator[None]:
  """Waits for the others, and holds a search's directory against them for a moment.

  Raises:
    UserError: Another process holds it for more than a moment, or it cannot be written.
  """
  end = time.monotonic() + STALE_SECONDS
  with contextlib.ExitStack() as stack:
    while True:
      try:
        stack.enter_context(locked(directory))
        break
      except UserError:
        usable = os.access(directory / "lock", os.R_OK | os.W_OK)
        if not usable or time.monotonic() > end:
          raise
        time.sleep(_POLL_SECONDS)
    yield
