"""Several processes that train one run together, on one host or on many.

Each holds a share of every batch; what is written of the run, the first one writes. An error in one
is an error in all: none may wait for ever for another that has ended.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax.errors import UserError

# A process that is silent for so long counts as dead, and ends the others.
_HEARTBEAT_SECONDS = 30
# How long a process that ends because of an error may take to put its things away: where another is
# dead, what waits for it waits in vain; else a checkpoint may still be written.
_LEAVE_SECONDS = 5
_WRITE_SECONDS = 120
_MESSAGE_BYTES = 2000
# Codes of JAX's errors that say something of this process, not of another.
_OWN_MISTAKES = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "NOT_FOUND")


def join(
  coordinator: str | None = None,
  count: int | None = None,
  index: int | None = None,
  seconds: float = 300,
) -> None:
  """Makes this process one of several; before anything else asks JAX for its devices.

  Args:
    coordinator: HOST:PORT of the first process, as all see it. With the others None it is what
      JAX finds out on TPU pods, under Slurm and under Kubernetes.
    count: Number of processes.
    index: Number of this one, from 0.
    seconds: How long to wait for the others. Then this process ends, with the status 2: JAX, which
      waits, could only abort.

  Raises:
    UserError: Nothing is found out, or the others do not fit.
  """
  timer = _end_after(
    seconds,
    f"not all processes came within {seconds:g} s: start as many as --processes says, all with the "
    "same --coordinator, each with its own --process",
    status=2,
  )
  try:
    jax.distributed.initialize(
      coordinator,
      count,
      index,
      initialization_timeout=round(seconds) + 60,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except ValueError as error:
    raise UserError(
      f"cannot find the other processes ({error}): give --coordinator HOST:PORT --processes N "
      "--process I to each"
    ) from None
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f"the processes did not find each other: {reason}. Start all with the same --coordinator and "
      "--processes, and each with its own --process"
    ) from None
  finally:
    timer.cancel()
  if jax.local_device_count() * jax.process_count() != jax.device_count():
    raise UserError(
      f"process {jax.process_index()} has {jax.local_device_count()} of {jax.device_count()} "
      f"devices: each of {jax.process_count()} processes needs as many as the others"
    )


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def from_first(value: int) -> int:
  """The first process's value, in every process; all have to call it, in the same order."""
  if jax.process_count() == 1:
    return value
  with jax.transfer_guard("allow"):
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends in all processes or in none: a `UserError` within one is raised in all."""
  own: UserError | None = None
  try:
    yield
  except UserError as error:
    own = error
  if jax.process_count() > 1:
    messages = _gather(str(own) if own else "")
    failed = [(i, message) for i, message in enumerate(messages) if message]
    if failed and not own:
      own = UserError(f"process {failed[0][0]}: {failed[0][1]}")
  if own:
    raise own


def require_equal(name: str, value: Any) -> None:
  """Raises a UserError where a value, of what JSON can hold, is not that of the first process."""
  if not _is_that_of_first(json.dumps(value, sort_keys=True)):
    raise UserError(
      f"process {jax.process_index()} has another {name} than process 0: start all with the same "
      "arguments"
    )


def require_shared(path: pathlib.Path) -> None:
  """Raises a UserError where a file that the first process wrote is not seen, or is another."""
  if not _is_that_of_first(path.read_text() if path.is_file() else ""):
    raise UserError(
      f"{path} is not the one that process 0 has written: all processes need to see the same files"
    )


@contextlib.contextmanager
def ends_all() -> Iterator[None]:
  """An error within, in one of several processes, ends this one at once, and so the others soon.

  An orderly exit would wait for all. A user's mistake gives the exit status 2, others 1.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    status = 1
    if isinstance(error, UserError):
      print(f"resnet-jax: {error}", file=sys.stderr)
      status = 2
    elif isinstance(error, OSError) or _is_of_another(error):
      print(f"resnet-jax: {describe(error)}", file=sys.stderr)
    else:
      traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():  # With the first one JAX aborts the others, who may want to say why they end.
      time.sleep(2)
    os._exit(status)


def leave_in_time(
  kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
  """An exit callback for `contextlib.ExitStack`: an error ends this process soon, whatever waits.

  Files and checkpoints are closed on the way out. In one of several processes that may mean to wait
  for one that is dead.
  """
  del kind, trace
  if error is not None and jax.process_count() > 1:
    seconds = _LEAVE_SECONDS if _is_of_another(error) else _WRITE_SECONDS
    _end_after(seconds, describe(error), status=1)


def describe(error: BaseException) -> str:
  """What an error says of this process, in one line."""
  line = (str(error).splitlines() or [""])[0]
  if _is_of_another(error):
    line = (
      f"another process has ended, or cannot be reached ({line}); start all again to go on from "
      "the last checkpoint"
    )
  return f"process {jax.process_index()} of {jax.process_count()}: {line}"


def _is_of_another(error: BaseException) -> bool:
  """Whether it is what collectives and JAX's service raise when a process is gone."""
  code, colon, _ = str(error).partition(":")
  # What waits for an array raises the same text as a ValueError.
  known = isinstance(error, jax.errors.JaxRuntimeError | ValueError) and colon and code.isupper()
  if known and code not in _OWN_MISTAKES:
    return True
  return error.__context__ is not None and _is_of_another(error.__context__)


def _gather(message: str) -> list[str]:
  """The messages of all processes, in order."""
  content = np.zeros(_MESSAGE_BYTES, np.uint8)
  encoded = message.encode()[:_MESSAGE_BYTES]
  content[: len(encoded)] = np.frombuffer(encoded, np.uint8)
  with jax.transfer_guard("allow"):
    gathered = multihost_utils.process_allgather(content)
  return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(gathered)]


def _is_that_of_first(text: str) -> bool:
  """Whether a text is the first process's too; all have to ask."""
  digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
  number = int.from_bytes(digest, "little", signed=True)
  return from_first(number) == number


def _end_after(seconds: float, message: str, status: int) -> threading.Timer:
  """Ends this process when the time is over, with a message, unless the timer is cancelled."""

  def end() -> None:
    print(f"resnet-jax: {message}", file=sys.stderr, flush=True)
    os._exit(status)

  timer = threading.Timer(seconds, end)
  timer.daemon = True
  timer.start()
  return timer
