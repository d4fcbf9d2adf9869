"""Something done every few seconds in the background, while a block runs."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(do: Callable[[], None], seconds: float) -> Iterator[None]:
  """Calls a function in a thread, first after so many seconds; none is under way at the end.

  Args:
    do: What it raises ends the thread, and nothing else.
    seconds: Between the end of a call and the next one.
  """
  ended = threading.Event()

  def repeat() -> None:
    while not ended.wait(seconds):
      do()

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
