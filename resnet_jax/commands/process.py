"""What a command changes of its process: JAX's settings, and what SIGTERM does."""

import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
# Slurm may send SIGTERM twice at once where it means one.
_SAME_SIGNAL_SECONDS = 0.5
EXIT_BROKEN_PIPE = 141  # As that of a program that SIGPIPE ends.


def configure_jax() -> None:
  """Settings of the process, which no import of the package makes."""
  from resnet_jax.compilation_cache import enable_compilation_cache
  from resnet_jax.run.failed_saves import silence_failed_saves

  enable_compilation_cache(pathlib.Path("~/.cache/resnet_jax/compilations").expanduser())
  silence_failed_saves()


def keep_to_cpu() -> None:
  """JAX computes on the CPU in this process: accelerators are left to those that it starts."""
  import jax

  jax.config.update("jax_platforms", "cpu")


def describe_tpus() -> None:
  """Keeps the TPU's compiler, which is to be asked about described TPUs, from looking for one.

  Where there is none it would ask a server for minutes what kind it is, and complain.
  """
  for name, value in {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # None of them uses a TPU.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
  }.items():
    os.environ.setdefault(name, value)


class Stops:
  """How often SIGINT or SIGTERM has come, within `with`; neither ends the process there."""

  _SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self) -> None:
    """Does not listen yet."""
    self._count = 0
    self._before: list[Any] = []

  def __enter__(self) -> "Stops":
    self._before = [signal.signal(number, self._receive) for number in self._SIGNALS]
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in zip(self._SIGNALS, self._before, strict=True):
      signal.signal(number, handler)

  def __call__(self) -> int:
    """The number."""
    return self._count

  def _receive(self, signum: int, frame: FrameType | None) -> None:
    del signum, frame
    self._count += 1


@contextlib.contextmanager
def without_source_paths() -> Iterator[None]:
  """Programs that are traced within do not say where the source files of their operations lie."""
  import jax

  name = "jax_traceback_in_locations_limit"
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


class Preempted:
  """Whether SIGTERM has come, to this process or to another of the same run.

  A process that is alone knows at once; a second SIGTERM, before all is saved and not at the same
  moment, ends it. Several agree, through JAX, on the next step that none of them has begun. Before
  the training there is nothing to save: then SIGTERM ends the command, with the same status.
  """

  def __init__(self) -> None:
    """Begins to listen."""
    self._alone = True
    self._training = self._received = False
    signal.signal(signal.SIGTERM, self._receive)

  def begin(self) -> None:
    """From now on a run is to be saved; to be called once processes have joined."""
    import jax

    if self._received:  # And the exit was swallowed, as Python does in callbacks of its own.
      sys.exit(EXIT_PREEMPTED)
    # In one of several processes JAX listens instead.
    self._alone, self._training = jax.process_count() == 1, True

  def __call__(self, step: int) -> bool:
    """Whether to save and end after `step`; several processes ask after every step."""
    if self._alone:
      return self._received
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return reached_preemption_sync_point(step)

  def close(self) -> None:
    """All is saved: from now on SIGTERM is ignored, so that the exit status says how it ended.

    Python ends with the system's action for SIGTERM in force, and takes seconds to free what JAX
    holds: one that came meanwhile would make a finished run look like a killed one.
    """
    if self._alone:
      signal.signal(signal.SIGTERM, signal.SIG_IGN)

  def _receive(self, signum: int, frame: FrameType | None) -> None:
    del frame
    before, self._received = self._received, True
    if not self._training:
      print("resnet-jax: SIGTERM came before the training; nothing is lost", file=sys.stderr)
      sys.exit(EXIT_PREEMPTED)
    if before:
      return
    time.sleep(_SAME_SIGNAL_SECONDS)  # Another one meanwhile is taken here, and is the same.
    signal.signal(signum, signal.SIG_DFL)
