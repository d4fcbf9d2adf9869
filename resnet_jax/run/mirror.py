"""A folder on this machine and one in a bucket, of which each can be made like the other.

An object appears in a bucket as a whole, but objects cannot be renamed or appended to, and several
do not change at once. So what belongs together is written in an order: a checkpoint is there once
its `digests.json` is, which is sent last and deleted first.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from resnet_jax.data.remote_filesystem import answered, open_filesystem
from resnet_jax.run import digests
from resnet_jax.run.files import write_whole

Wanted = Callable[[str], bool]

_NOTES = ".mirror.json"
# Names that a process writes under before it renames.
_UNFINISHED = re.compile(r"(^|/)[^/]*(\.tmp|\.new)(/|$)")
_SEALED = re.compile(rf"((?:.*/)?checkpoints/\d+)/{re.escape(digests.FILE)}$")
_IN_CHECKPOINT = re.compile(r"((?:.*/)?checkpoints/\d+)/.")


class Mirror:
  """A folder here and one in a bucket.

  What is known to be the same on both sides stands in a file in the folder, so that only what
  differs is sent or fetched. Methods may be called from any thread, and wait for each other.
  """

  def __init__(self, address: str, folder: pathlib.Path):
    """Changes nothing yet.

    Args:
      address: `gs://bucket/folder` or whatever else fsspec writes to.
      folder: The folder here, which need not exist.
    """
    self.address, self.folder = address.rstrip("/"), folder
    self._notes = folder / _NOTES
    self._lock = threading.RLock()

  @functools.cached_property
  def _filesystem(self) -> Any:
    """Raises a UserError if what fsspec needs for such addresses is not installed."""
    return open_filesystem(self.address)

  @functools.cached_property
  def _root(self) -> str:
    return str(self._filesystem._strip_protocol(self.address)).rstrip("/")

  def read(self, name: str) -> bytes:
    """An object's content; empty if there is none.

    Raises:
      OSError: The store does not answer.
    """
    try:
      return bytes(self._ask(lambda: self._filesystem.cat_file(self._path(name))))
    except FileNotFoundError:
      return b""

  def write(self, name: str, content: bytes) -> None:
    """Replaces an object; raises an OSError if the store does not answer."""
    self._ask(lambda: self._filesystem.pipe_file(self._path(name), content))

  @property
  def holder(self) -> str | None:
    """By what the last process was known that held both sides and changed this one."""
    return self._read_notes()["holder"]

  @holder.setter
  def holder(self, session: str) -> None:
    with self._lock:
      self._write_notes(self._read_notes() | {"holder": session})

  def pull(self, wanted: Wanted, exactly: bool) -> None:
    """Fetches what has changed in the bucket; checkpoints only if they are whole there.

    Args:
      wanted: Which names are looked at, on both sides.
      exactly: Whether to delete what is here alone. What was there too, and is no more, is always.

    Raises:
      OSError: The store does not answer, or the disk is full.
    """
    with self._lock:
      notes = self._read_notes()
      known: dict[str, Any] = notes["files"]
      listing = self._listing()
      torn = _torn(listing)
      there = {name: v for name, v in listing.items() if wanted(name) and name not in torn}
      here = {name for name in self._local() if wanted(name)}
      gone = {name for name in here - there.keys() if exactly or name in known}
      for name in _in_order(gone, deleting=True):
        (self.folder / name).unlink(missing_ok=True)
        known.pop(name, None)
      for name in _in_order(there):
        path = self.folder / name
        if name in here and known.get(name) == [there[name], *_state(path)]:
          continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        self._ask(functools.partial(self._filesystem.get_file, self._path(name), str(new)))
        new.replace(path)
        known[name] = [there[name], *_state(path)]
        self._write_notes(notes)
      self._write_notes(notes)
    for folder in sorted(self.folder.rglob("*"), reverse=True):
      if folder.is_dir():
        with contextlib.suppress(OSError):
          folder.rmdir()  # of which nothing is left

  def push(self, wanted: Wanted) -> None:
    """Sends what has changed here, and deletes there what is no more here.

    Args:
      wanted: Which names are looked at, on both sides.

    Raises:
      OSError: The store does not answer.
    """
    with self._lock:
      notes = self._read_notes()
      known: dict[str, Any] = notes["files"]
      here = [name for name in self._local() if wanted(name) and not _UNFINISHED.search(name)]
      for name in _in_order(here):
        path = self.folder / name
        try:
          state = _state(path)
          if name in known and known[name][1:] == state:
            continue
          # Read at once: what is appended meanwhile is sent the next time.
          self._send(path, name)
        except FileNotFoundError:  # It was deleted meanwhile, as old checkpoints are.
          continue
        known[name] = [self._version(name), *state]
        self._write_notes(notes)
      gone = [name for name in known if wanted(name) and not (self.folder / name).exists()]
      for name in _in_order(gone, deleting=True):
        with contextlib.suppress(FileNotFoundError):
          self._ask(functools.partial(self._filesystem.rm_file, self._path(name)))
        del known[name]
        self._write_notes(notes)

  def pull_lost(self, wanted: Wanted) -> None:
    """Fetches what was the same on both sides, and is gone here: somebody has cleaned the cache.

    Raises:
      OSError: The store does not answer.
    """
    known = self._read_notes()["files"]
    lost = {n for n in known if wanted(n) and not (self.folder / n).exists()}
    if lost:
      self.pull(lost.__contains__, exactly=False)

  def discard_torn(self) -> None:
    """Deletes what there is of checkpoints that were not sent, or not deleted, to the end.

    Else it would lie among the files of the next checkpoint of the same step.

    Raises:
      OSError: The store does not answer.
    """
    with self._lock:
      notes = self._read_notes()
      for name in sorted(_torn(self._listing())):
        with contextlib.suppress(FileNotFoundError):
          self._ask(functools.partial(self._filesystem.rm_file, self._path(name)))
        notes["files"].pop(name, None)  # What is here is sent again.
      self._write_notes(notes)

  def _send(self, path: pathlib.Path, name: str) -> None:
    if _IN_CHECKPOINT.match(name):
      if not path.exists():
        raise FileNotFoundError(path)
      self._ask(lambda: self._filesystem.put_file(str(path), self._path(name)))
    else:
      self.write(name, path.read_bytes())

  def _local(self) -> list[str]:
    """Files here; folders may come and go meanwhile."""
    found = []
    for folder, folders, files in os.walk(self.folder):
      folders[:] = [name for name in folders if not _UNFINISHED.search(name)]
      inside = pathlib.Path(folder).relative_to(self.folder)
      found += [(inside / name).as_posix() for name in files if name != _NOTES]
    return found

  def _listing(self) -> dict[str, str]:
    """What tells one content of an object from another, by its name."""
    self._filesystem.invalidate_cache()
    try:
      found = self._ask(lambda: self._filesystem.find(self._root, detail=True))
    except FileNotFoundError:
      return {}
    return {
      str(path).removeprefix(f"{self._root}/"): _version_of(entry)
      for path, entry in found.items()
      if str(path).startswith(f"{self._root}/")
    }

  def _version(self, name: str) -> str:
    self._filesystem.invalidate_cache()
    return _version_of(self._ask(lambda: self._filesystem.info(self._path(name))))

  def _path(self, name: str) -> str:
    return f"{self._root}/{name}"

  def _ask(self, ask: Callable[[], Any]) -> Any:
    return answered(ask, self.address)

  def _read_notes(self) -> dict[str, Any]:
    try:
      notes = json.loads(self._notes.read_bytes())
      return {"holder": notes["holder"], "files": dict(notes["files"])}
    except (OSError, ValueError, KeyError, TypeError):
      return {"holder": None, "files": {}}

  def _write_notes(self, notes: dict[str, Any]) -> None:
    self._notes.parent.mkdir(parents=True, exist_ok=True)
    write_whole(self._notes, json.dumps(notes).encode())


def _torn(names: Iterable[str]) -> set[str]:
  """Those that lie in checkpoints which are not sealed."""
  names = set(names)
  sealed = {found[1] for name in names if (found := _SEALED.fullmatch(name))}
  return {
    name for name in names if (found := _IN_CHECKPOINT.match(name)) and found[1] not in sealed
  }


def _in_order(names: Iterable[str], deleting: bool = False) -> list[str]:
  """Records before the checkpoints that promise them; of a checkpoint, what seals it last."""

  def key(name: str) -> tuple[int, str]:
    return 2 if _SEALED.fullmatch(name) else 1 if _IN_CHECKPOINT.match(name) else 0, name

  return sorted(names, key=key, reverse=deleting)


def _state(path: pathlib.Path) -> list[int]:
  stat = path.stat()
  return [stat.st_size, stat.st_mtime_ns]


def _version_of(entry: dict[str, Any]) -> str:
  """What stores call it: a generation, or a hash; else when it was written."""
  for name in ("generation", "ETag", "etag", "md5Hash"):
    if entry.get(name):
      return str(entry[name])
  written = next((entry[n] for n in ("LastModified", "mtime", "created") if entry.get(n)), "")
  return f"{entry.get('size')} bytes, {written}"
