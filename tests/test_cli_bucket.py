"""Runs whose data, logs and checkpoints lie in a bucket, through an object store on loopback."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from interrupted import Interrupted
from one_device import ONE_DEVICE

pytest.importorskip("s3fs", reason="the store is reached with s3fs, of resnet_jax[bucket]")
pytest.importorskip("moto", reason="the store is moto's server, of resnet_jax[dev]")

import object_store
from test_processes import records

from resnet_jax.run.checkpoints import Checkpoints

FIELDS = (
  *("--config.model.stage_sizes", "1", "--config.model.width=4", "--config.batch_size=32"),
  *("--config.log_every=4steps", "--config.evaluate_every=8steps"),
  "--config.checkpoint.every=4steps",
)


@pytest.fixture(scope="module")
def store():
  """What finds the store, in the environment."""
  with object_store.serve() as environment:
    yield environment


@pytest.fixture
def bucket(store, monkeypatch) -> str:
  for name, value in store.items():
    monkeypatch.setenv(name, value)
  return object_store.new_bucket()


@pytest.fixture
def host(monkeypatch, tmp_path):
  """Makes what follows happen on a machine of that name: with a cache of its own."""
  return lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def test_data_logs_and_checkpoints_in_a_bucket_move_from_machine_to_machine(
  bucket, host, tmp_path, call_here, monkeypatch
):
  pytest.importorskip("tensorflow_datasets")
  sys.path.insert(0, str(pathlib.Path(__file__).parent / "data"))
  import s3fs
  from made_sets import write_tfds_set

  write_tfds_set(tmp_path / "data", "shapes", {"train": 64, "test": 8})
  sizes = ("--image-size", 16, "--short-side", 18)
  own = ("--prepared-dir", tmp_path / "own")
  status, _, err = call_here("prepare", "shapes", "--data-dir", tmp_path / "data", *own, *sizes)
  assert status == 0, err
  files = s3fs.S3FileSystem()
  files.put(f"{tmp_path / 'data'}/", f"{bucket}/data/", recursive=True)
  files.put(f"{tmp_path / 'own'}/", f"{bucket}/own/", recursive=True)
  views = {"image_size": 16, "short_side_min": 18, "short_side_max": 20}
  views |= {"short_side_evaluation": 18, "shuffle_block": 16}
  fields = [f"--config.data.streaming.{name}={value}" for name, value in views.items()]
  fields += ["--config.data.dataset=shapes", "--config.data.held_out=16", *FIELDS]

  def train(workdir, data, own, length, status=0):
    lies = (f"--config.data.data_dir={data}", f"--config.data.prepared_dir={own}")
    where = ("--config", "digits", "--workdir", workdir, *lies, *fields)
    found, out, err = call_here("train", *where, f"--config.length={length}steps")
    assert found == status, err
    return out

  host("one")
  # The machine is taken away: all that is saved is in the bucket when the command ends.
  with monkeypatch.context() as patch:
    Interrupted(patch, Checkpoints, "save")
    train(f"{bucket}/runs/a", f"{bucket}/data", f"{bucket}/own", 16, status=75)
  host("two")
  out = train(f"{bucket}/runs/a", f"{bucket}/data", f"{bucket}/own", 16)
  assert "resumed after step 5 of 16" in out
  train(tmp_path / "local", tmp_path / "data", tmp_path / "own", 16)
  host("three")
  status, out, err = call_here("evaluate", "--workdir", f"{bucket}/runs/a", "--split", "test")
  assert status == 0, err
  call_here("evaluate", "--workdir", tmp_path / "local", "--split", "test")
  files.get(f"{bucket}/runs/a/", f"{tmp_path / 'copy'}/", recursive=True)
  assert_same_bits(tmp_path / "copy", tmp_path / "local", 16)
  assert records(tmp_path / "copy")[-1]["split"] == "test"
  status, out, err = call_here("report", f"{bucket}/runs/a", "--output", tmp_path / "report")
  assert status == 0, err
  assert "a " in out


def start(workdir, machine: pathlib.Path, *arguments) -> subprocess.Popen:
  command = ["train", "--config", "digits", "--workdir", workdir, *FIELDS, *arguments]
  return subprocess.Popen(
    [sys.executable, "-m", "resnet_jax", *map(str, command)],
    env=os.environ | ONE_DEVICE | {"XDG_CACHE_HOME": str(machine), "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def steps_in(files, workdir: str) -> list[int]:
  """Steps of which there is a whole checkpoint in the bucket."""
  files.invalidate_cache()
  found = files.glob(f"{workdir}/checkpoints/*/digests.json")
  return sorted(int(name.split("/")[-2]) for name in found)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_whose_machine_is_taken_away_goes_on_elsewhere_with_the_same_bits(
  bucket, tmp_path, ends
):
  import s3fs

  long = "--config.length=60000steps"
  workdir, files = f"{bucket}/a", s3fs.S3FileSystem()
  process = start(workdir, tmp_path / "one", long)
  wait_for(lambda: steps_in(files, workdir), process)
  process.send_signal(ends)
  process.communicate()
  assert process.returncode == (75 if ends == signal.SIGTERM else -signal.SIGKILL)
  (saved,) = steps_in(files, workdir)[-1:]
  length = f"--config.length={saved + 40}steps"
  process = start(workdir, tmp_path / "two", length)
  said = process.communicate(timeout=200)[0]
  assert process.returncode == 0, said
  assert f"resumed after step {saved} of {saved + 40}" in said
  assert ("is gone: taken over" in said) is (ends == signal.SIGKILL)
  process = start(tmp_path / "local", tmp_path / "three", length)
  assert process.communicate() and process.returncode == 0
  files.get(f"{workdir}/", f"{tmp_path / 'copy'}/", recursive=True)
  assert_same_bits(tmp_path / "copy", tmp_path / "local", saved + 40)


def assert_same_bits(one: pathlib.Path, other: pathlib.Path, step: int) -> None:
  trees = []
  with contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
    for run in (one, other):
      trees.append(checkpointer.restore(run / "checkpoints" / str(step) / "state"))
  jax.tree.map(np.testing.assert_array_equal, *trees)
  assert records(one) == records(other)


@pytest.mark.long
def test_two_machines_without_a_common_disk_train_one_run(bucket, tmp_path):
  import s3fs

  workdir, files = f"{bucket}/a", s3fs.S3FileSystem()

  def start_two(length):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    several = ("--coordinator", address, "--processes", 2, f"--config.length={length}steps")
    return [start(workdir, tmp_path / f"m{i}", *several, "--process", i) for i in range(2)]

  def ended(processes):
    said = [process.communicate(timeout=200)[0] for process in processes]
    return [process.returncode for process in processes], said

  processes = start_two(60000)
  wait_for(lambda: steps_in(files, workdir), processes[0])
  processes[1].send_signal(signal.SIGTERM)
  statuses, said = ended(processes)
  assert statuses == [75, 75], said
  saved = steps_in(files, workdir)[-1]
  statuses, said = ended(start_two(saved + 16))
  assert statuses == [0, 0], said
  assert f"resumed after step {saved}" in said[0]
  assert steps_in(files, workdir)[-1] == saved + 16
  # Both changed places: what the second fetched is what the first had saved.
  process = start(workdir, tmp_path / "m9", f"--config.length={saved + 20}steps")
  assert process.communicate() and process.returncode == 0
