"""Durations as configs write them."""

import pytest

from resnet_jax.errors import UserError
from resnet_jax.training.durations import parse_steps


@pytest.mark.parametrize(
  ("duration", "batch_size", "train_examples", "steps"),
  [
    ("64000 steps", 128, 45_000, 64_000),
    ("1 step", 128, 45_000, 1),
    ("8192000 examples", 128, 45_000, 64_000),
    ("182 epochs", 128, 45_000, 63_984),  # 63,984.4
    ("1 epoch", 128, 50_000, 391),  # 390.6
    ("1 epochs", 128, 50_000, 391),
    ("1 epoch", 100, 50_000, 500),
    ("0.5 epochs", 100, 50_000, 250),
    ("1.5 epochs", 10, 10, 2),  # 1.5
    ("1e3 steps", 128, 45_000, 1000),
    ("6E4 steps", 128, 45_000, 60_000),
    ("60e4 steps", 256, 1_281_167, 600_000),
    ("90 epochs", 256, 1_281_167, 450_410),  # 450,410.3
    ("65 examples", 128, 45_000, 1),  # 0.51
    ("  10   steps ", 128, 45_000, 10),
    ("10steps", 128, 45_000, 10),
  ],
)
def test_a_duration_is_the_nearest_number_of_steps(duration, batch_size, train_examples, steps):
  actual = parse_steps(duration, "length", batch_size, train_examples)
  assert actual == steps
  assert isinstance(actual, int)


@pytest.mark.parametrize(
  "duration",
  [
    "",
    "10",
    "steps",
    "ten steps",
    "-1 steps",
    "10 minutes",
    "30 epochs 100 steps",
    "30 epochs, 64000 steps",
    "10 steps!",
    "nan steps",
  ],
)
def test_what_is_no_duration_is_refused_with_the_field_and_how_to_write_one(duration):
  with pytest.raises(UserError, match="is no duration") as error:
    parse_steps(duration, "checkpoint.every", 128, 45_000)
  assert f"checkpoint.every={duration!r}" in str(error.value)
  assert '"30 epochs"' in str(error.value)


@pytest.mark.parametrize(
  "duration", ["0 steps", "0 epochs", "63 examples", "0.4 steps", "1e-3 epochs"]
)
def test_less_than_one_step_is_refused_with_the_size_of_a_step(duration):
  with pytest.raises(UserError, match="less than one step of 128 examples") as error:
    parse_steps(duration, "length", 128, 45_000)
  assert f"length={duration!r}" in str(error.value)


def test_a_duration_without_end_is_refused():
  with pytest.raises(UserError, match="length="):
    parse_steps("1e400 epochs", "length", 128, 45_000)
