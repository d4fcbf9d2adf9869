"""The JSON file that says what a directory holds, and files whose digests stand in it."""

import hashlib
import pathlib
from typing import Any, Protocol, TypeVar

import msgspec

from resnet_jax.errors import UserError


class Info(Protocol):
  """A dataclass that is stored; what it has by default as `format` is what is read."""

  @property
  def format(self) -> int:
    """Of the directory."""


T = TypeVar("T", bound=Info)


def encode_info(info: Any) -> bytes:
  """A dataclass as the content of its JSON file; raises a `UserError` for what it cannot hold."""
  try:
    content = msgspec.json.encode(info)
    msgspec.json.decode(content, type=type(info))
  except (TypeError, msgspec.DecodeError) as error:
    raise UserError(f"what is known of the weights cannot be written as JSON: {error}") from None
  return msgspec.json.format(content, indent=2) + b"\n"


def read_info_file(path: pathlib.Path, kind: type[T], absent: str) -> T:
  """What such a file says.

  Args:
    path: The file.
    kind: The dataclass.
    absent: What to say if there is none.

  Raises:
    UserError: There is none, or it is not as it was written, or of another format.
  """
  try:
    info = msgspec.json.decode(path.read_bytes(), type=kind)
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(absent) from None
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  except msgspec.DecodeError as error:
    raise UserError(f"{path} is not as it was written: {str(error).replace('$.', '')}") from None
  if info.format != kind.format:
    raise UserError(f"{path} is of format {info.format}; this version reads {kind.format}")
  return info


def read_verified(path: pathlib.Path, sha256: str, remedy: str) -> bytes:
  """The content of a file, once its digest is right.

  Args:
    path: The file.
    sha256: Of what was written.
    remedy: What to do if it is no longer that.

  Raises:
    UserError: It cannot be read, or is damaged.
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  if hashlib.sha256(content).hexdigest() != sha256:
    raise UserError(f"{path} is damaged: not the bits that were written; {remedy}")
  return content
