"""Where a directory lies that commands write to: on this machine, or in a bucket.

All else knows directories on this machine alone. Of one in a bucket there is a copy here, in the
user's cache: `fetch` brings it up to date, and while it is held what is written to it is sent.
"""

import abc
import contextlib
import fcntl
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator

from resnet_jax.data.prepared import cache_of, is_address
from resnet_jax.errors import UserError
from resnet_jax.run import remote_lock
from resnet_jax.run.lock import locked
from resnet_jax.run.mirror import Mirror

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
  def fetch(self) -> None:
    """Brings `path` up to date; raises a UserError if that cannot be done."""

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

  def fetch(self) -> None:
    """See `Location`: it is here."""

  def send(self) -> None:
    """See `Location`: it is here."""

  def held(self) -> contextlib.AbstractContextManager[None]:
    """See `Location`."""
    return locked(self.path)


class BucketDirectory(Location):
  """A directory in a bucket, which its holder alone changes: that of a run.

  Whoever held it last, on this machine, has the newest copy: it is never fetched again, so that
  nothing is lost which a killed process had not sent yet.
  """

  kind = "runs"

  def __init__(self, address: str):
    """Changes nothing."""
    name = address.rstrip("/").rpartition("/")[2]
    self._mirror = Mirror(address, cache_of(address, self.kind) / name)
    self.path = self._mirror.folder

  def __str__(self) -> str:
    return self._mirror.address

  def child(self, name: str) -> str:
    """See `Location`."""
    return f"{self._mirror.address}/{name}"

  def fetch(self) -> None:
    """See `Location`."""
    with _one_at_a_time(self.path), self._named():
      session = remote_lock.session_of(self._mirror)
      if session is None or session != self._mirror.note:
        self._mirror.pull(_fetched, exactly=True)
        self._mirror.note = session

  def send(self) -> None:
    """See `Location`."""
    self._mirror.push(_sent)

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """See `Location`."""
    with contextlib.ExitStack() as stack:
      stack.enter_context(locked(self.path))
      with self._named():
        before = remote_lock.session_of(self._mirror)
        session = stack.enter_context(remote_lock.held(self._mirror))
        if before != self._mirror.note:
          raise UserError(f"{self} has changed since it was fetched: run the same command again")
        self._begin()
      self._mirror.note = session
      stack.callback(self._send_all)
      stack.enter_context(_repeatedly(self.send, self._mirror.address))
      yield

  def _begin(self) -> None:
    """What is to be put in order once the directory is held."""
    self._mirror.discard_torn()

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

  def fetch(self) -> None:
    """See `Location`."""
    with _one_at_a_time(self.path), self._named():
      self._mirror.pull(_tells_of_sweep, exactly=False)
      self._mirror.note = remote_lock.session_of(self._mirror)

  def send(self) -> None:
    """See `Location`."""
    self._mirror.push(_is_sweeps_own)

  def _begin(self) -> None:
    """Nothing: its runs are held by others."""

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """See `Location`; meanwhile what the runs record is fetched."""
    fetch = _repeatedly(lambda: self._mirror.pull(_of_runs, exactly=False), self._mirror.address)
    with super().held(), fetch:
      yield


def open_location(text: str, sweep: bool = False) -> Location:
  """A directory by its name, or by its address in a bucket.

  Args:
    text: What a user gave.
    sweep: Whether it is that of a sweep.
  """
  if not is_address(text):
    return LocalDirectory(pathlib.Path(text))
  return BucketSweep(text) if sweep else BucketDirectory(text)


def _sent(name: str) -> bool:
  return name != remote_lock.OBJECT


def _fetched(name: str) -> bool:
  """Not what is only ever added to: events for TensorBoard, and profiles."""
  return _sent(name) and not name.startswith(("events.", "profile/"))


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


@contextlib.contextmanager
def _repeatedly(do: Callable[[], None], address: str) -> Iterator[None]:
  """Does something every few seconds; lines say when it begins to fail, and when that is over."""
  ended = threading.Event()

  def repeat() -> None:
    fails = False
    while not ended.wait(_SECONDS):
      try:
        do()
      except OSError as error:
        if not fails:
          _say(f"{error}; it is tried again every {_SECONDS:g} s")
        fails = True
        continue
      if fails:
        _say(f"{address} answers again")
      fails = False

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def _say(line: str) -> None:
  print(f"resnet-jax: {line}", file=sys.stderr, flush=True)
