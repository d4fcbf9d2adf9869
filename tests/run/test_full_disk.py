"""What is kept, said and tried again when the disk is full."""

import contextlib
import gc
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from one_device import ONE_DEVICE

from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints, SaveError
from resnet_jax.run.failed_saves import silence_failed_saves
from resnet_jax.run.records import Records, read_records
from resnet_jax.training import CheckpointConfig, Config, build_run, fit

STATE = {"x": np.arange(100_000, dtype=np.float32), "step": np.int32(1)}


@pytest.fixture(autouse=True)
def _as_the_command_line(monkeypatch):
  """Without the tracebacks of failed saves; they come as late as when their arrays are freed."""
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  loggers = logging.getLogger("absl"), logging.getLogger("asyncio")
  before = [(logger.level, list(logger.filters)) for logger in loggers]
  silence_failed_saves()
  yield
  gc.collect()
  for logger, (level, filters) in zip(loggers, before, strict=True):
    logger.setLevel(level)
    logger.filters[:] = filters


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
  """Mounts a file system of so many bytes on a new folder; skips the test where that is refused."""
  folder.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
  try:
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
  except OSError as error:
    pytest.skip(f"no small disk: {error}")
  if mounted.returncode:
    pytest.skip(f"no small disk: {mounted.stderr.strip()}")
  try:
    yield folder
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
  """Fills the disk to the last page with one file, and returns that."""
  file = folder / "filler"
  with file.open("ab", buffering=0) as out, contextlib.suppress(OSError):
    while True:
      out.write(bytes(4096))
  return file


def test_a_save_that_fails_is_said_once_and_the_next_one_succeeds(tmp_path, capfd):
  with small_disk(tmp_path / "disk", "4m") as disk:
    checkpoints = Checkpoints(disk, keep=5)
    checkpoints.save(1, STATE, {}, None)
    checkpoints.wait()
    filler = fill(disk)
    checkpoints.save(2, STATE, {}, None)
    checkpoints.save(3, STATE, {}, None)
    assert capfd.readouterr().err.splitlines() == [
      "checkpoint of step 2 could not be saved (No space left on device); the earlier ones are kept"
    ]
    with pytest.raises(SaveError, match="step 3 could not be saved"):
      checkpoints.wait()
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["1"]
    assert checkpoints.restore(1, STATE)[0]["step"] == 1
    filler.unlink()
    checkpoints.save(4, STATE, {}, None)
    checkpoints.wait()
    checkpoints.close()
    assert checkpoints.steps() == [1, 4]
    assert "could not" not in capfd.readouterr().err


def test_a_disk_that_fills_up_in_the_middle_of_a_save_leaves_nothing_half(tmp_path):
  for room in ("200k", "300k", "400k", "440k", "460k"):
    with small_disk(tmp_path / room, room) as disk:
      checkpoints = Checkpoints(disk)
      checkpoints.save(1, STATE, {}, None)
      try:
        checkpoints.wait()
        assert checkpoints.steps() == [1]
        checkpoints.restore(1, STATE)
      except SaveError as error:
        assert "No space left on device" in str(error)
        assert not list((disk / "checkpoints").iterdir())
      checkpoints.close()


def test_metrics_that_cannot_be_written_are_an_error_at_once_and_what_was_written_stays(tmp_path):
  with small_disk(tmp_path / "disk", "1m") as disk:
    records = Records(disk, 0)
    records.write(1, "train", loss=0.5)
    fill(disk)
    step = 1
    with pytest.raises(OSError, match=r"metrics cannot be written to .*disk \(No space left on"):
      for step in range(2, 10_000):
        records.write(step, "train", loss=0.5)
    records.close()
    steps = [record["step"] for record in read_records(disk)]
    assert steps in (list(range(1, step)), list(range(1, step + 1)))
    with pytest.raises(OSError, match="metrics cannot be written"):
      Records(disk, 1)


def test_a_folder_that_is_gone_fails_the_save_and_not_the_run(tmp_path, capfd):
  checkpoints = Checkpoints(tmp_path)
  (tmp_path / "checkpoints").rmdir()
  (tmp_path / "checkpoints").write_text("")
  checkpoints.save(1, STATE, {}, None)
  with pytest.raises(SaveError, match=r"step 1 could not be saved \(Not a directory\)"):
    checkpoints.wait()
  checkpoints.save(2, STATE, {}, None)
  checkpoints.close()
  assert capfd.readouterr().err.startswith("checkpoint of step 2 could not be saved (Not a dir")


def start(workdir: pathlib.Path, *more: str) -> subprocess.Popen:
  small = ["--config.model.stage_sizes", "1", "1", "1", "--config.model.width=4"]
  command = ["train", "--config", "digits", "--workdir", str(workdir), *small, *more]
  return subprocess.Popen(
    [sys.executable, "-m", "resnet_jax", *command],
    env=os.environ | ONE_DEVICE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_a_run_trains_on_through_saves_that_fail_and_ends_with_an_error(tmp_path, capfd):
  config = Config(
    model=ModelConfig("resnet20", {"stage_sizes": (1, 1, 1), "width": 4}),
    data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8)),
    batch_size=16,
    length="6 steps",
    checkpoint=CheckpointConfig(every="2 steps"),
  )
  with (
    small_disk(tmp_path / "checkpoints", "40k"),
    pytest.raises(OSError, match=r"step 6 could not be saved \(No space left on device\)"),
  ):
    fit(build_run(config), tmp_path)
  reason = "could not be saved (No space left on device); the earlier ones are kept"
  said = capfd.readouterr().err.splitlines()
  assert f"checkpoint of step 2 {reason}" in said
  assert f"checkpoint of step 4 {reason}" in said
  assert [(r["step"], r["split"]) for r in read_records(tmp_path)][-1] == (6, "validation")


@pytest.mark.parametrize("ends", ["at its end", pytest.param("by SIGTERM", marks=pytest.mark.long)])
def test_the_command_exits_with_1_if_its_last_save_failed(ends, tmp_path):
  # Room for all but a checkpoint.
  with small_disk(tmp_path / "disk", "80k") as disk:
    length = "30 steps" if ends == "at its end" else "100000 steps"
    every = ["--config.checkpoint.every=10000 steps", "--config.evaluate_every=10000 steps"]
    process = start(disk, f"--config.length={length}", "--config.log_every=10 steps", *every)
    if ends == "by SIGTERM":
      while not (disk / "metrics.jsonl").exists() or not (disk / "metrics.jsonl").stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
      process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert err.startswith("resnet-jax: checkpoint of step ")
    assert err.endswith(
      " could not be saved (No space left on device); the earlier ones are kept\n"
    )
    assert len(err.splitlines()) == 1
    assert not list((disk / "checkpoints").iterdir())


def test_a_run_that_cannot_record_ends_with_a_message_and_exit_code_1(tmp_path):
  with small_disk(tmp_path / "disk", "4m") as disk:
    process = start(disk, "--config.length=100000 steps", "--config.log_every=1 steps")
    while not (disk / "metrics.jsonl").exists() or not (disk / "metrics.jsonl").stat().st_size:
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    fill(disk)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "metrics cannot be written to" in err.splitlines()[-1]
    assert "Traceback" not in err + out
    assert len(err.splitlines()) < 20
