"""A signal at an exact moment: when a function is called."""

import signal


class Interrupted:
  """Makes a function raise SIGTERM, once, when it is called for the `time`-th time."""

  def __init__(self, monkeypatch, owner, name, time=1, after=False):
    self._function, self._left, self._after = getattr(owner, name), time, after

    def method(*arguments, **keywords):  # Which is bound where the owner is a class.
      return self(*arguments, **keywords)

    monkeypatch.setattr(owner, name, method)

  def __call__(self, *arguments, **keywords):
    self._left -= 1
    if self._left == 0 and not self._after:
      signal.raise_signal(signal.SIGTERM)
    result = self._function(*arguments, **keywords)
    if self._left == 0 and self._after:
      signal.raise_signal(signal.SIGTERM)
    return result

  @property
  def has_been(self) -> bool:
    return self._left <= 0
