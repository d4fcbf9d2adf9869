"""One process at a time writes to a folder in a bucket, on whatever host it is.

A bucket has no locks. The holder writes an object that says who it is, and every few seconds a new
time: a heartbeat, which others watch. Of two that begin at the same moment the one that wrote last
stays: each looks again, a moment after it has written, before it changes anything.
"""

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

from resnet_jax.run.lock import (
  BEAT_SECONDS,
  STALE_SECONDS,
  holder_in,
  in_use,
  outlive,
  this_process,
  words_of,
)
from resnet_jax.run.mirror import Mirror
from resnet_jax.run.repeated import repeated

OBJECT = "lock"
# How long another that begins at the same moment may take to write.
_SETTLE_SECONDS = 1.0


def session_of(mirror: Mirror) -> str | None:
  """Which of all holders was the last, whether it still is or not; None if there was none."""
  return _parse(mirror.read(OBJECT)).get("session")


@contextlib.contextmanager
def held(
  mirror: Mirror,
  own: str | None = None,
  beat_seconds: float = BEAT_SECONDS,
  stale_seconds: float = STALE_SECONDS,
) -> Iterator[str]:
  """Holds a folder in a bucket; gives what this holder is known by.

  Args:
    mirror: The folder, of which this process holds the copy on this machine already.
    own: What the last holder with this very copy was known by. It is dead, whatever its beat says,
      for else this process would not hold the copy.
    beat_seconds: Time between two beats of the holder.
    stale_seconds: A holder that has not beaten for so long is dead.

  Raises:
    UserError: Another process holds it.
    OSError: The store does not answer.
  """
  outlive(
    lambda: mirror.read(OBJECT),
    mirror.address,
    stale_seconds,
    lambda holder: own is not None and holder.get("session") == own,
  )
  session = uuid.uuid4().hex
  holder = this_process() | {"session": session}

  def write(**more: Any) -> None:
    mirror.write(OBJECT, json.dumps(holder | more).encode())

  write(beat=time.time())
  time.sleep(_SETTLE_SECONDS)
  if _parse(found := mirror.read(OBJECT)).get("session") != session:
    raise in_use(mirror.address, holder_in(found))

  def beat() -> None:
    # A store that does not answer for a while is no reason to end a run.
    with contextlib.suppress(OSError):
      found = mirror.read(OBJECT)
      if _parse(found).get("session") not in (session, None):
        other = holder_in(found)
        _say(f"{words_of(other) if other else 'another process'} has taken over {mirror.address}")
        os._exit(1)  # At once: nothing more may be written there.
      write(beat=time.time())

  try:
    with repeated(beat, beat_seconds):
      yield session
  finally:
    with contextlib.suppress(OSError):  # Then it is stale after a while.
      write()  # without a beat: nobody's


def _parse(content: bytes) -> dict[str, Any]:
  try:
    values = json.loads(content)
  except ValueError:
    return {}
  return values if isinstance(values, dict) else {}


def _say(line: str) -> None:
  print(f"resnet-jax: {line}", file=sys.stderr, flush=True)
