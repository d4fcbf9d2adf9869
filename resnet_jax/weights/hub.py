"""Weights by their names on the Hugging Face hub."""

import pathlib
import re
from collections.abc import Sequence

from resnet_jax.errors import UserError


def is_hub_name(text: str) -> bool:
  """Whether a text can be a hub's name: "owner/name", and no path."""
  return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None


def download(name: str, files: Sequence[str]) -> pathlib.Path:
  """The folder in the hub's own cache that holds those of the files that there are.

  Raises:
    UserError: huggingface_hub is not installed, or there is no such name, or no network.
  """
  try:
    from huggingface_hub import snapshot_download
  except ImportError:
    raise UserError(
      f"{name} does not exist here, and to look for it on the hub huggingface_hub is needed: "
      "pip install 'resnet_jax[hub]'"
    ) from None
  try:
    return pathlib.Path(snapshot_download(name, allow_patterns=list(files)))
  except Exception as error:  # those of its many layers have no common class
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{name} is not here, and the hub does not give it: {reason}") from None
