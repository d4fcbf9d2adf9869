"""Runs of a sweep without a training behind them."""

import pathlib
import sys

import pytest

from resnet_jax.launch.job import Job

STUB = pathlib.Path(__file__).parent / "stub_train.py"


@pytest.fixture
def stub() -> tuple[str, ...]:
  """A program that takes `train` arguments; `--act` says what becomes of it."""
  return sys.executable, "-S", str(STUB)


@pytest.fixture
def make_job(tmp_path):
  """Makes a run of 10 steps that acts as told."""

  def make_job(index: int, act: str = "finish") -> Job:
    workdir = tmp_path / f"{index:03d}"
    arguments = ["train", "--workdir", str(workdir), "--act", act]
    return Job(workdir.name, workdir, {"act": act, "seed": index}, arguments, 10)

  return make_job
