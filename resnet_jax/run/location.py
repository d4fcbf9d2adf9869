"""Where a directory lies that commands write to: on this machine, or in a bucket.

All else knows directories on this machine alone. Of one in a bucket there is a copy here, in the
user's cache: `fetch` brings it up to date, and while it is held what is written to it is sent.
"""

import abc
import contextlib
import fcntl
import pathlib
import re
import sys
from collections.abc import Callable, Iterator

from resnet_jax.data.prepared import cache_of, is_address
from resnet_jax.errors import UserError
from resnet_jax.run import remote_lock
from resnet_jax.run.lock import holder_of, locked
from resnet_jax.run.mirror import Mirror
from resnet_jax.run.repeated import repeated

_SECONDS = 10.0  # between two looks at what is to be sent or fetched


class Location(abc.ABC):
  """A directory.

  Attributes:
    path: Where it, or its copy, lies on this machine.
  """

  path: pathlib.Path

  @abc.abstractmethod
  def child(self, name: str) -> str:
    """The name of a directory in it, as a command takes it."""

  @abc.abstractmethod
  def child_path(self, name: str) -> pathlib.Path:
    """Where a run in `child(name)` works on this machine, and is locked."""

  @abc.abstractmethod
  def fetch(self, exists: bool = False) -> None:
    """Brings `path` up to date.

    Args:
      exists: Whether a run has to be there already.

    Raises:
      UserError: That cannot be done.
    """

  @abc.abstractmethod
  def send(self) -> None:
    """Returns once what was written to `path` lies where it belongs; raises an OSError if not."""

  @abc.abstractmethod
  def held(self) -> contextlib.AbstractContextManager[None]:
    """Holds the directory against a second process; what is written meanwhile is sent.

    Raises:
      UserError: Another process holds it.
      OSError: At the end: not all could be sent.
    """


class LocalDirectory(Location):
  """A directory of this machine."""

  def __init__(self, path: pathlib.Path):
    """Changes nothing."""
    self.path = path

  def __str__(self) -> str:
    return str(self.path)

  def child(self, name: str) -> str:
    """See `Location`."""
    return str(self.path / name)

  def child_path(self, name: str) -> pathlib.Path:
    """See `Location`."""
    return self.path / name

  def fetch(self, exists: bool = False) -> None:
    """See `Location`: it is here, or whoever reads it says that it is not."""

  def send(self) -> None:
    """See `Location`: it is here."""

  def held(self) -> contextlib.AbstractContextManager[None]:
    """See `Location`."""
    return locked(self.path)


class BucketDirectory(Location):
  """A directory in a bucket, which its holder alone changes: that of a run.

  The copy of whoever held it last is the newest there is: on its machine it is not fetched again,
  so that nothing is lost which a killed process had not sent yet.
  """

  kind = "runs"

  def __init__(self, address: str):
    """Changes nothing."""
    name = address.rstrip("/").rpartition("/")[2]
    self._mirror = Mirror(address, cache_of(address, self.kind) / name)
    self.path = self._mirror.folder
    self._session: str | None = None  # What this process is known by while it holds it.

  def __str__(self) -> str:
    return self._mirror.address

  def child(self, name: str) -> str:
    """See `Location`."""
    return f"{self._mirror.address}/{name}"

  def child_path(self, name: str) -> pathlib.Path:
    """See `Location`."""
    return BucketDirectory(self.child(name)).path

  def fetch(self, exists: bool = False) -> None:
    """See `Location`."""
    with _one_at_a_time(self.path), self._named():
      if holder_of(self.path) is None:  # Else it is the newest copy, and somebody writes to it.
        self._update(remote_lock.session_of(self._mirror))
    if exists and not (self.path / "config.json").exists():
      raise UserError(f"{self} is not the directory of a run: it has no config.json")

  def send(self) -> None:
    """See `Location`."""
    if remote_lock.session_of(self._mirror) != self._session:
      raise OSError(f"another process has taken over {self}")
    self._mirror.push(self._sent)

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """See `Location`; it is up to date then."""
    with contextlib.ExitStack() as stack:
      stack.enter_context(locked(self.path))
      with self._named():
        before = remote_lock.session_of(self._mirror)
        session = stack.enter_context(remote_lock.held(self._mirror, own=self._mirror.holder))
        with _one_at_a_time(self.path):
          self._update(before)
          self._tidy()
          self._mirror.holder = self._session = session
      stack.callback(self._send_all)
      stack.enter_context(_kept_up(self.send, self._mirror.address))
      yield

  def _update(self, last: str | None) -> None:
    """Fetches what has changed since this copy was the newest; `last` is who held any last."""
    if last is not None and last == self._mirror.holder:
      self._mirror.pull_lost(_fetched)
    else:
      self._mirror.pull(_fetched, exactly=True)

  def _tidy(self) -> None:
    """What is to be put in order once the directory is held."""
    self._mirror.discard_torn()

  @staticmethod
  def _sent(name: str) -> bool:
    return name != remote_lock.OBJECT

  def _send_all(self) -> None:
    try:
      self.send()
    except OSError as error:
      raise OSError(
        f"not all of {self} could be sent ({error}); it is kept in {self.path}, from where the "
        "same command on this machine goes on"
      ) from None

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    """An error of the store is the user's to know: of his address, or of his rights."""
    try:
      yield
    except OSError as error:
      raise UserError(f"{error}: check the address, the network and your credentials") from None


class BucketSweep(BucketDirectory):
  """A directory in a bucket whose runs other processes change: that of a sweep.

  Of the runs that is fetched which tells how far they are; what lies beside them is sent.
  """

  kind = "sweeps"

  def fetch(self, exists: bool = False) -> None:
    """See `Location`; its holder may do so too, for the runs are others'."""
    del exists
    with _one_at_a_time(self.path), self._named():
      self._update(None)

  def _update(self, last: str | None) -> None:
    del last
    self._mirror.pull(_tells_of_sweep, exactly=False)

  def _tidy(self) -> None:
    """Nothing: its runs are held by others."""

  @staticmethod
  def _sent(name: str) -> bool:
    return _is_sweeps_own(name)

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """See `Location`; meanwhile what the runs record is fetched."""
    fetch = _kept_up(lambda: self._mirror.pull(_of_runs, exactly=False), self._mirror.address)
    with super().held(), fetch:
      yield


def open_location(text: str, sweep: bool = False) -> Location:
  """A directory by its name, or by its address in a bucket.

  Args:
    text: What a user gave.
    sweep: Whether it is that of a sweep.

  Raises:
    UserError: It is an address without a bucket.
  """
  if not is_address(text):
    return LocalDirectory(pathlib.Path(text))
  if not re.match(r"[\w+.-]+://[^/]", text):
    raise UserError(f"{text} names no bucket: give gs://BUCKET/DIR")
  return BucketSweep(text) if sweep else BucketDirectory(text)


def _fetched(name: str) -> bool:
  """Not what is only ever added to: events for TensorBoard, and profiles."""
  return name != remote_lock.OBJECT and not name.startswith(("events.", "profile/"))


def _is_sweeps_own(name: str) -> bool:
  return not name.partition("/")[0].isdecimal() and name != remote_lock.OBJECT


def _of_runs(name: str) -> bool:
  """What tells how far a run is, and nothing large."""
  run, _, rest = name.partition("/")
  tells = ("config.json", "metrics.jsonl", "environment.json")
  in_checkpoint = rest.startswith("checkpoints/") and rest.count("/") == 2
  return run.isdecimal() and (rest in tells or in_checkpoint)


def _tells_of_sweep(name: str) -> bool:
  return _is_sweeps_own(name) or _of_runs(name)


@contextlib.contextmanager
def _one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
  """The processes of this machine that fetch the same folder wait for each other."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with folder.with_name(f"{folder.name}.fetching").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _kept_up(do: Callable[[], None], address: str) -> contextlib.AbstractContextManager[None]:
  """Does something every few seconds; lines say when it begins to fail, and when that is over."""
  fails = False

  def attempt() -> None:
    nonlocal fails
    try:
      do()
    except OSError as error:
      if not fails:
        _say(f"{error}; it is tried again every {_SECONDS:g} s")
      fails = True
      return
    if fails:
      _say(f"{address} answers again")
    fails = False

  return repeated(attempt, _SECONDS)


def _say(line: str) -> None:
  print(f"resnet-jax: {line}", file=sys.stderr, flush=True)
