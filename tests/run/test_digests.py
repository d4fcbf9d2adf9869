"""Digests: every flipped bit is found, that of the digests themselves too."""

import hashlib

import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.run import digests
from resnet_jax.weights.array_files import sha256
from resnet_jax.weights.info_files import read_verified


def test_a_directory_that_was_sealed_is_whole(tmp_path):
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "file").write_bytes(b"abc")
  (tmp_path / "empty").write_bytes(b"")
  digests.seal(tmp_path)
  assert digests.damage(tmp_path) is None
  digests.seal(tmp_path)
  assert digests.damage(tmp_path) is None


def test_each_single_bit_counts(tmp_path):
  (tmp_path / "file").write_bytes(bytes(range(16)))
  digests.seal(tmp_path)
  for path in (tmp_path / "file", tmp_path / "digests.json"):
    content = path.read_bytes()
    for bit in range(8 * len(content)):
      flipped = bytearray(content)
      flipped[bit // 8] ^= 1 << bit % 8
      path.write_bytes(flipped)
      assert digests.damage(tmp_path), (path.name, bit)
    path.write_bytes(content)


def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path):
  (tmp_path / "state").mkdir()
  file = tmp_path / "state" / "data"
  file.write_bytes(b"12345")
  digests.seal(tmp_path)
  file.write_bytes(b"1234")
  assert digests.damage(tmp_path) == "state/data: 4 bytes, not 5"
  file.write_bytes(b"12346")
  assert digests.damage(tmp_path) == "state/data: not the bits that were written"
  assert digests.damage(tmp_path, only="other") is None
  assert digests.damage(tmp_path, only="state/data")
  file.unlink()
  assert digests.damage(tmp_path) == "state/data: missing"
  file.write_bytes(b"12345")
  file.with_name("more").write_bytes(b"")
  assert digests.damage(tmp_path) == "state/more: was not written with the others"
  (tmp_path / "digests.json").unlink()
  assert digests.damage(tmp_path) == "digests.json: missing"


@pytest.mark.parametrize("position", [0, (1 << 20) - 1, 1 << 20, (5 << 20) // 2, -1])
def test_each_part_of_a_large_file_counts(tmp_path, position):
  content = bytearray(np.random.default_rng(0).bytes((3 << 20) + 5))
  (tmp_path / "file").write_bytes(content)
  digests.seal(tmp_path)
  assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
  written = hashlib.sha256(content).hexdigest()
  assert read_verified(tmp_path / "file", written, "again") == content
  content[position] ^= 4
  (tmp_path / "file").write_bytes(content)
  assert digests.damage(tmp_path) == "file: not the bits that were written"
  assert sha256(tmp_path / "file") != written
  with pytest.raises(UserError, match="file is damaged"):
    read_verified(tmp_path / "file", written, "again")
