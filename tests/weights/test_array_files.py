"""Files of arrays: all of what they hold, or a short message; nothing in them is run."""

import builtins
import importlib.util
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from resnet_jax.errors import UserError
from resnet_jax.weights import read_arrays

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.count": np.int64([3])}
needs_torch = pytest.mark.skipif(
  importlib.util.find_spec("torch") is None, reason="no PyTorch: pip install -e '.[torch]'"
)


def assert_arrays(found):
  assert found.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(found[name], array, strict=True)


def test_safetensors_and_npz_are_read(tmp_path):
  safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors")
  assert_arrays(read_arrays(tmp_path / "a.safetensors"))
  np.savez(tmp_path / "a.npz", **ARRAYS)
  assert_arrays(read_arrays(str(tmp_path / "a.npz")))


def test_hdf5_is_read_by_path(tmp_path):
  h5py = pytest.importorskip("h5py", reason="no h5py: pip install -e '.[h5]'")
  with h5py.File(tmp_path / "a.h5", "w") as file:
    file["layer/layer/kernel:0"] = ARRAYS["a.weight"]
  found = read_arrays(tmp_path / "a.h5")
  assert list(found) == ["layer/layer/kernel:0"]
  np.testing.assert_array_equal(found["layer/layer/kernel:0"], ARRAYS["a.weight"], strict=True)


@needs_torch
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "best": 0.5}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_of_pytorch_are_read_wrapped_or_not(tmp_path, wrap, prefix):
  import torch

  state = {prefix + name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
  torch.save(wrap(state), tmp_path / "a.pth")
  assert_arrays(read_arrays(tmp_path / "a.pth"))


@needs_torch
def test_bfloat16_keeps_its_values(tmp_path):
  import safetensors.torch
  import torch

  state = {"a": torch.tensor([1.5, -3.0], dtype=torch.bfloat16)}
  torch.save(state, tmp_path / "a.pt")
  safetensors.torch.save_file(state, tmp_path / "a.safetensors")
  for file in ("a.pt", "a.safetensors"):
    assert read_arrays(tmp_path / file)["a"].astype(float).tolist() == [1.5, -3.0]


class Code:
  """Its pickle runs code where it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


@needs_torch
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
  import torch

  torch.save({"state_dict": Code(tmp_path / "ran")}, tmp_path / "new.pth")
  (tmp_path / "old.th").write_bytes(pickle.dumps(Code(tmp_path / "ran")))
  for name in ("new.pth", "old.th"):
    with pytest.raises(UserError, match=r"holds more than tensors, or is damaged: nothing of it"):
      read_arrays(tmp_path / name)
  assert not (tmp_path / "ran").exists()


def test_objects_in_npz_are_refused(tmp_path):
  np.savez(tmp_path / "a.npz", a=np.array([Code(tmp_path / "ran")], object))
  (tmp_path / "ran").unlink(missing_ok=True)
  with pytest.raises(UserError, match=r"a\.npz is not a whole \.npz file of arrays"):
    read_arrays(tmp_path / "a.npz")
  assert not (tmp_path / "ran").exists()


def test_without_pytorch_its_files_name_the_extra(tmp_path, monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == "torch":
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  (tmp_path / "a.pth").touch()
  with pytest.raises(UserError, match=r"needs PyTorch: pip install 'resnet_jax\[torch\]'"):
    read_arrays(tmp_path / "a.pth")


@needs_torch
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_part_of_a_file_of_pytorch_is_refused(tmp_path, share):
  import torch

  torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
  content = (tmp_path / "a.pth").read_bytes()
  (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
  with pytest.raises(UserError, match=r"a\.pth (holds more than|is not a whole)"):
    read_arrays(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_part_of_a_safetensors_or_npz_file_is_refused(tmp_path, share):
  safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors")
  np.savez(tmp_path / "a.npz", **ARRAYS)
  for path in tmp_path.iterdir():
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=f"{path.name} is not a whole"):
      read_arrays(path)


def test_what_is_no_file_of_arrays_is_named(tmp_path):
  with pytest.raises(UserError, match=r"a\.pth does not exist"):
    read_arrays(tmp_path / "a.pth")
  (tmp_path / "b.pth").mkdir()
  with pytest.raises(UserError, match=r"b\.pth is no file"):
    read_arrays(tmp_path / "b.pth")
  with pytest.raises(UserError, match=r"a\.txt: no format of weights; known are \.safetensors"):
    read_arrays(tmp_path / "a.txt")
  (tmp_path / "c.h5").write_text("text")
  pytest.importorskip("h5py", reason="no h5py: pip install -e '.[h5]'")
  with pytest.raises(UserError, match=r"c\.h5 is not a whole HDF5 file"):
    read_arrays(tmp_path / "c.h5")


@needs_torch
def test_a_whole_module_or_other_values_are_no_state_dict(tmp_path):
  import torch

  torch.save({"epoch": 3, "weights": torch.zeros(1)}, tmp_path / "a.pth")
  with pytest.raises(UserError, match="is no state dict: epoch is no tensor"):
    read_arrays(tmp_path / "a.pth")
  torch.save(torch.nn.Linear(2, 2), tmp_path / "b.pth")
  with pytest.raises(UserError, match="holds more than tensors"):
    read_arrays(tmp_path / "b.pth")
  with zipfile.ZipFile(tmp_path / "c.pth", "w") as file:
    file.writestr("a", "b")
  with pytest.raises(UserError, match=r"c\.pth is not a whole file of PyTorch"):
    read_arrays(tmp_path / "c.pth")
