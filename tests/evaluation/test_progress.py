"""What a person sees while a split is scored: a bar on a terminal, plain lines elsewhere."""

import io
import sys

import pytest

from resnet_jax.evaluation.progress import ScoringProgress


class Terminal(io.StringIO):
  """A stream that is a terminal."""

  def isatty(self):
    return True


@pytest.fixture
def score(monkeypatch):
  """Scores 3 images of 2 shapes, then returns what was printed."""

  def score(stream, programs=2, seconds=0.0):
    monkeypatch.setattr(sys, "stderr", stream)
    with ScoringProgress(3, programs, seconds) as progress:
      progress.compiling()
      progress.advance(2)
      progress.compiling()
      progress.advance(1)
    return stream.getvalue()

  return score


def test_without_a_terminal_lines_say_how_far_it_is_and_which_program_is_compiled(score):
  first, *lines = score(io.StringIO()).splitlines()
  assert first.startswith("compiling 2 programs, one for each image shape")
  parts = [line.split("  ") for line in lines]
  assert [line[0] for line in parts] == [f"{done} of 3 images" for done in (0, 2, 2, 3)]
  assert [line[2] for line in parts] == [f"program {i} of 2" for i in (1, 1, 2, 2)]
  assert all(line[1].endswith("images/s") for line in parts)
  assert lines[-1].endswith("00:00 left")


def test_lines_come_no_more_often_than_asked_and_one_program_is_not_announced(score):
  assert score(io.StringIO(), programs=1, seconds=100.0) == ""


def test_a_terminal_has_a_bar_that_says_what_is_compiled(score):
  text = score(Terminal())
  assert "compiling program 1 of 2" in text and "compiling program 2 of 2" in text
  assert "0.00/3.00" in text
  assert " of 3 images" not in text
