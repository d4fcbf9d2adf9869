"""What has its final name outlasts a power cut: it was flushed to disk before it was renamed."""

import collections
import os
import pathlib

import numpy as np
import pytest

from resnet_jax.data.prepared import write_npz
from resnet_jax.run.checkpoint_folder import CheckpointFolder
from resnet_jax.run.files import write_directory, write_whole
from resnet_jax.run.records import Records


class Disk:
  """What `os.fsync` and the renaming of files did, in their order.

  Attributes:
    flushes: How often each file or folder was flushed, by the name that it had then.
    renamed: The new names, in their order.
  """

  def __init__(self, monkeypatch):
    self.flushes = collections.Counter()
    self.renamed = []
    self._flushed = {}
    fsync = os.fsync

    def flush(descriptor):
      path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
      self.flushes[path.name] += 1
      self._flushed[os.fstat(descriptor).st_ino] = self._content(path)
      fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    for name in ("replace", "rename"):
      self._watch(monkeypatch, name)

  def is_flushed(self, path):
    """Whether a file, or a folder's list of names, is on disk as it is now."""
    return self._flushed.get(path.stat().st_ino) == self._content(path)

  def _watch(self, monkeypatch, name):
    move = getattr(os, name)

    def checked(source, target, **options):
      source = pathlib.Path(source)
      for path in (source, *source.rglob("*")):
        assert self.is_flushed(path), f"{path} is renamed before it is flushed"
      self.renamed.append(pathlib.Path(target).name)
      return move(source, target, **options)

    monkeypatch.setattr(os, name, checked)

  @staticmethod
  def _content(path):
    return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()


@pytest.fixture
def disk(monkeypatch):
  if not pathlib.Path("/proc/self/fd").exists():
    pytest.skip("needs /proc")
  return Disk(monkeypatch)


def test_a_file_is_flushed_once_before_it_gets_its_name(disk, tmp_path):
  for content in (b"first", b"second"):
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content
  assert disk.renamed == ["file", "file"]
  assert disk.flushes == {"file.new": 2}


def test_a_directory_is_flushed_with_its_files_and_then_its_name(disk, tmp_path):
  write_directory(tmp_path / "out", {"a": b"1", "b": b"2"})
  assert disk.renamed == ["a", "b", "out"]
  assert disk.flushes == {"a.new": 1, "b.new": 1, "out.new": 1, tmp_path.name: 1}
  assert disk.is_flushed(tmp_path)


def test_prepared_arrays_are_flushed_before_they_get_their_name(disk, tmp_path):
  write_npz(tmp_path / "made.npz", a=np.arange(3))
  assert disk.renamed == ["made.npz"]
  assert sum(disk.flushes.values()) == 1


def test_all_of_a_checkpoint_is_flushed_before_it_gets_its_step_and_the_step_after(disk, tmp_path):
  folder = CheckpointFolder(tmp_path / "checkpoints")
  folder.prepare()
  arrays = folder.temporary(7) / "state" / "below"
  arrays.mkdir(parents=True)
  (arrays / "data").write_bytes(b"of Orbax")
  folder.commit(7, {"run.json": "{}", "metrics.json": "null"})
  assert disk.renamed == ["7"]
  files = ("data", "run.json", "metrics.json", "digests.json")
  folders = ("7.tmp", "state", "below", folder.path.name)
  assert disk.flushes == dict.fromkeys((*files, *folders), 1)
  assert disk.is_flushed(folder.path) and folder.steps() == [7]


def test_records_are_on_disk_once_they_are_synced(disk, tmp_path):
  records = Records(tmp_path, 0)
  records.write(1, "train", loss=0.5)
  assert not disk.is_flushed(tmp_path / "metrics.jsonl")
  records.sync()
  assert disk.is_flushed(tmp_path / "metrics.jsonl")
  records.close()
