"""Tests of resnet_jax.data.compiled."""

import os
import pathlib
import subprocess
import sys

import numba
import numpy as np
import pytest

from resnet_jax.data.compiled import compiled


def total(numbers):
  """Sums squares."""
  result = 0
  for number in numbers:
    result += number * number
  return result


NUMBERS = np.arange(5)

MODULE = """
import sys
import numpy as np
from resnet_jax.data.compiled import compiled

@compiled
def total(numbers):
  return numbers.sum()

print(total(np.arange(5)))
"""


OTHER_MODULE = """
import numba

@numba.njit
def times(number):
  return {factor} * number
"""

MODULE_OF_TWO = """
import other
from resnet_jax.data.compiled import compiled, digest_of_sources

def _made_of(sources):
  @compiled
  def twice(number):
    assert sources
    return other.times(number) + other.times(number)
  return twice

print(_made_of(digest_of_sources(other))(5))
"""


def test_it_gives_the_functions_result():
  function = compiled(total)
  assert function(NUMBERS) == total(NUMBERS) == 30
  assert function(NUMBERS.astype(np.float32)) == 30.0


def test_it_keeps_name_and_description():
  function = compiled(total)
  assert function.__name__ == "total" and function.__doc__ == "Sums squares."


class NotKept:
  """Numba's `njit`, which has nowhere to keep what it compiles, as it says of each try."""

  def __init__(self, at_first_call: Exception | None = None):
    self._error, self._njit = at_first_call, numba.njit
    self.tries = self.compilations = 0

  def __call__(self, **options):
    if options.pop("cache", False):
      self.tries += 1
      if self._error is None:
        raise RuntimeError("cannot cache function 'total': no locator available")
      return lambda _: self._fail
    self.compilations += 1
    return self._njit(**options)

  def _fail(self, *_):
    raise self._error


def test_it_works_where_there_is_no_place_to_keep_it(monkeypatch):
  monkeypatch.setattr(numba, "njit", njit := NotKept())
  function = compiled(total)
  assert [function(NUMBERS) for _ in range(3)] == [30] * 3
  assert (njit.tries, njit.compilations) == (1, 1)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError()])
def test_it_works_where_it_cannot_be_kept_in_the_end(monkeypatch, error):
  monkeypatch.setattr(numba, "njit", njit := NotKept(error))
  function = compiled(total)
  assert [function(NUMBERS) for _ in range(3)] == [30] * 3
  assert (njit.tries, njit.compilations) == (1, 1)


def test_it_works_where_saving_fails(monkeypatch):
  def save(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", save)
  function = compiled(lambda numbers: numbers.max())
  assert function(NUMBERS) == 4 and function(NUMBERS.astype(float)) == 4.0


def test_other_errors_are_not_hidden():
  function = compiled(total)
  with pytest.raises(numba.TypingError):
    function("text")


def run(path: pathlib.Path, **environment: str) -> str:
  """What a script prints; by default it may keep its code beside itself."""
  root = pathlib.Path(__file__).parents[2]
  variables = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
  variables |= {"PYTHONPATH": str(root), **environment}
  done = subprocess.run(
    [sys.executable, path], env=variables, capture_output=True, text=True, timeout=60, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture
def script(tmp_path) -> pathlib.Path:
  (tmp_path / "code").mkdir()
  path = tmp_path / "code" / "sums.py"
  path.write_text(MODULE)
  return path


@pytest.mark.long
def test_the_code_is_kept_beside_the_module(script, tmp_path):
  assert run(script) == "10\n"
  kept = sorted((script.parent / "__pycache__").glob("sums.total*"))
  assert {path.suffix for path in kept} == {".nbi", ".nbc"}
  before = [path.stat().st_mtime_ns for path in kept]
  assert run(script) == "10\n"
  assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_home_and_a_folder_that_cannot_be_written_do_no_harm(script, tmp_path):
  # A file in a folder's place cannot be written to by the superuser either.
  (script.parent / "__pycache__").write_text("")
  (tmp_path / "home").write_text("")
  assert run(script, HOME=str(tmp_path / "home")) == "10\n"


@pytest.mark.long
def test_what_was_kept_and_is_damaged_is_compiled_again(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(MODULE)
  cache = tmp_path / "cache"
  assert run(program, NUMBA_CACHE_DIR=str(cache)) == "10\n"
  [kept] = cache.rglob("*.nbi")
  index = kept.read_bytes()
  for left in (0, 40):
    kept.write_bytes(index[:left])
    assert run(program, NUMBA_CACHE_DIR=str(cache)) == "10\n"


def test_what_was_kept_of_other_sources_is_not_taken(tmp_path):
  program, other = tmp_path / "program.py", tmp_path / "other.py"
  program.write_text(MODULE_OF_TWO)
  for factor in (1, 3):
    other.write_text(OTHER_MODULE.format(factor=factor))
    assert run(program, PYTHONDONTWRITEBYTECODE="1") == f"{10 * factor}\n"
  assert len(list(tmp_path.rglob("*.nbc"))) == 2
