"""Files of arrays by name: safetensors, PyTorch's, npz and HDF5. Nothing in them is executed."""

import hashlib
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError

Arrays = dict[str, np.ndarray]

# safetensors' own reader for NumPy knows no bfloat16, which JAX's NumPy arrays can be of.
_SAFETENSORS_DTYPES: dict[str, Any] = {
  **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
  **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
  **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
  "BF16": jnp.bfloat16,
  "BOOL": "bool",
}


def read_arrays(path: str | pathlib.Path) -> Arrays:
  """The arrays of a file, by their names there.

  PyTorch's files may hold a state dict itself, or one under `state_dict` or `model`; a prefix
  "module." of all names is left away. Their bfloat16 becomes float32.

  Args:
    path: .safetensors, .pth, .pt, .th, .bin (PyTorch, which has to be installed), .npz, or .h5
      (h5py, likewise).

  Raises:
    UserError: The file is not there, is damaged, or is not one of arrays alone.
  """
  path = pathlib.Path(path)
  reader = _READERS.get(path.suffix)
  if reader is None:
    raise UserError(f"{path}: no format of weights; known are {', '.join(_READERS)}")
  if not path.is_file():
    raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
  return reader(path)


def sha256(path: pathlib.Path) -> str:
  """The digest of a file."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(content: bytes, path: pathlib.Path) -> Arrays:
  """The arrays of the content of a safetensors file; `path` is for the message."""
  from safetensors import SafetensorError, deserialize

  try:
    entries = deserialize(content)
  except SafetensorError as error:
    raise UserError(f"{path} is not a whole safetensors file: {_line(error)}") from None
  arrays = {}
  for name, entry in entries:
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
      raise UserError(f"{path}: {name} is of {entry['dtype']}, which is not read")
    dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
    arrays[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
  return arrays


def _read_safetensors(path: pathlib.Path) -> Arrays:
  return read_safetensors(path.read_bytes(), path)


def _read_torch(path: pathlib.Path) -> Arrays:
  try:
    import torch
  except ImportError:
    raise UserError(f"{path} needs PyTorch: pip install 'resnet_jax[torch]'") from None
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError:
    raise UserError(
      f"{path} holds more than tensors, or is damaged: nothing of it was run. Save its "
      "state_dict() alone, with torch.save or as safetensors"
    ) from None
  except Exception as error:  # what a damaged file leads to is of any class
    raise UserError(f"{path} is not a whole file of PyTorch: {_line(error)}") from None
  for key in ("state_dict", "model"):
    if isinstance(content, dict) and isinstance(content.get(key), dict):
      content = content[key]
  if not isinstance(content, dict) or not content:
    raise UserError(f"{path} holds no state dict")
  others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
  if others:
    raise UserError(f"{path} is no state dict: {others[0]} is no tensor")
  if all(name.startswith("module.") for name in content):
    content = {name.removeprefix("module."): tensor for name, tensor in content.items()}

  def as_array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

  return {name: as_array(tensor) for name, tensor in content.items()}


def _read_npz(path: pathlib.Path) -> Arrays:
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except Exception as error:  # what damage leads to is of any class
    raise UserError(f"{path} is not a whole .npz file of arrays: {_line(error)}") from None


def _read_hdf5(path: pathlib.Path) -> Arrays:
  try:
    import h5py
  except ImportError:
    raise UserError(f"{path} needs h5py: pip install 'resnet_jax[h5]'") from None
  arrays: Arrays = {}

  def visit(name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
      arrays[name] = np.asarray(item)

  try:
    with h5py.File(path, "r") as file:
      file.visititems(visit)
  except OSError as error:
    raise UserError(f"{path} is not a whole HDF5 file: {_line(error)}") from None
  return arrays


def _line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]


_READERS: dict[str, Callable[[pathlib.Path], Arrays]] = {
  ".safetensors": _read_safetensors,
  **dict.fromkeys((".pth", ".pt", ".th", ".bin"), _read_torch),
  ".npz": _read_npz,
  **dict.fromkeys((".h5", ".hdf5"), _read_hdf5),
}
