"""A network with its weights as one portable program on disk, in StableHLO.

`network.stablehlo` is what `jax.export.deserialize` reads, without this package; `export.json` says
what the program takes and gives, where it is from, and its digest.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax import export

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.run.files import require_free, write_directory
from resnet_jax.weights.info_files import encode_info, read_info_file, read_verified
from resnet_jax.weights.plain_arrays import flat, image_channels
from resnet_jax.weights.program import PLATFORMS, export_network

PROGRAM, INFO = "network.stablehlo", "export.json"
_FORMAT = 1
_AGAIN = "export the network again"


@dataclasses.dataclass(frozen=True)
class ExportInfo:
  """What is known of an exported program.

  Attributes:
    model: Name of the network; "" if not known.
    source: Where its weights are from, in words.
    preprocessing: From a picture to the network's input, without its mean image, which is in the
      program; None if not known.
    class_names: Of the outputs; None if not known.
    input: pixels, 0 to 255 of the cropped picture, RGB: the program does the rest. normalized: what
      the network takes, so `preprocessing` comes before.
    input_shape: (H, W, C) of an image.
    input_dtype: uint8 for pixels, else float32.
    outputs: How many logits an image has, each float32.
    platforms: What the program can be compiled for.
    jax_version: Of the JAX that wrote it.
    calling_convention_version: Of `jax.export`.
    sha256: Of the program.
    format: Of the directory.
  """

  model: str
  source: str
  preprocessing: Preprocessing | None
  class_names: tuple[str, ...] | None
  input: Literal["pixels", "normalized"]
  input_shape: tuple[int, int, int]
  input_dtype: str
  outputs: int
  platforms: tuple[str, ...]
  jax_version: str
  calling_convention_version: int
  sha256: str
  format: int = _FORMAT


def save_export(
  directory: str | pathlib.Path,
  model: Network,
  variables: Any,
  preprocessing: Preprocessing | None,
  class_names: Sequence[str] | None,
  *,
  name: str = "",
  source: str = "",
  platforms: Sequence[str] = PLATFORMS,
  image_shape: tuple[int, int, int] | None = None,
  normalized: bool = False,
) -> ExportInfo:
  """Writes a network with its weights as a program, as a whole or not at all.

  Args:
    directory: One that is not there yet, or is empty.
    model: The network; see `export_network` for it, its variables and the platforms.
    variables: Its `params` and `batch_stats`, scanned or not.
    preprocessing: From a picture to the network's input; None if not known.
    class_names: One for each output; None if not known.
    name: Of the network.
    source: Where the weights are from, in words.
    platforms: What the program can be compiled for.
    image_shape: (H, W, C); None for the size of the crop that `preprocessing` says.
    normalized: Whether the program takes float32 as the network does, though the preprocessing is
      known; without it, it always does.

  Returns:
    What is stored with the program.

  Raises:
    UserError: The directory is taken; the size of the images is not known; the names are not one
      for each output; or as `export_network`.
  """
  directory = pathlib.Path(directory)
  require_free(directory)
  if image_shape is None:
    size = None if preprocessing is None else preprocessing.size
    if size is None:
      raise UserError("the size of the images is not known: give it (image_shape, --image-size)")
    image_shape = (size, size, image_channels(flat(variables)))
  inside = None if normalized else preprocessing
  if preprocessing is not None and preprocessing.mean_image is not None:
    if normalized:
      raise UserError(
        "a mean image is subtracted from pixels, which the program alone can hold: let it take "
        "pixels (without --normalized)"
      )
    preprocessing = dataclasses.replace(preprocessing, mean_image=None)
  exported = export_network(model, variables, image_shape, inside, platforms)
  outputs = exported.out_avals[0].shape[1]
  if class_names is not None and len(class_names) != outputs:
    raise UserError(f"{len(class_names)} class names for {outputs} outputs: give one for each")
  content = bytes(exported.serialize())
  info = ExportInfo(
    name,
    source,
    preprocessing,
    None if class_names is None else tuple(class_names),
    "normalized" if inside is None else "pixels",
    image_shape,
    exported.in_avals[0].dtype.name,
    outputs,
    exported.platforms,
    jax.__version__,
    exported.calling_convention_version,
    hashlib.sha256(content).hexdigest(),
  )
  write_directory(directory, {PROGRAM: content, INFO: encode_info(info)})
  return info


def load_export(
  directory: str | pathlib.Path,
) -> tuple[Callable[[jax.Array], jax.Array], ExportInfo]:
  """An exported network as a function.

  Args:
    directory: What `save_export` or `resnet-jax convert --format stablehlo` wrote.

  Returns:
    `call(images)`, under `jax.jit`, from (N, *info.input_shape) of `info.input_dtype` to logits
    (N, info.outputs), float32; it raises a `ValueError` for anything else. And what is known of it.

  Raises:
    UserError: There is none, or it is damaged; or this JAX, or its default platform, cannot run it.
  """
  info, path = read_export_info(directory), pathlib.Path(directory) / PROGRAM
  _require_runnable(info, directory)
  content = read_verified(path, info.sha256, _AGAIN)
  try:
    exported = export.deserialize(bytearray(content))
    (images,), (logits,) = exported.in_avals, exported.out_avals
    described = (images.shape[1:], images.dtype.name, *logits.shape[1:], exported.platforms)
  except Exception as error:  # what other content leads to is of any class
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is no program of a network: {line}") from None
  if described != (info.input_shape, info.input_dtype, info.outputs, info.platforms):
    raise UserError(f"{path} is not the program that {INFO} describes; {_AGAIN}")
  run = jax.jit(exported.call)

  def call(images: jax.Array) -> jax.Array:
    given, taken = jax.typeof(images), exported.in_avals[0]
    if given.shape[1:] != taken.shape[1:] or given.dtype != taken.dtype or given.shape[0] == 0:
      kind = "pixels, RGB from 0 to 255" if info.input == "pixels" else "as the network takes them"
      raise ValueError(f"images of {given}: this program takes {taken}, {kind}")
    return run(images)

  return call, info


def read_export_info(directory: str | pathlib.Path) -> ExportInfo:
  """What is known of the program in a directory, without reading it; raises `UserError`."""
  return read_info_file(
    pathlib.Path(directory) / INFO,
    ExportInfo,
    f"{directory} is no exported network: it has no {INFO} (resnet-jax convert --format stablehlo "
    "makes one)",
  )


def is_export(directory: str | pathlib.Path) -> bool:
  """Whether a directory holds an exported network."""
  return (pathlib.Path(directory) / INFO).is_file()


def _require_runnable(info: ExportInfo, directory: str | pathlib.Path) -> None:
  """Raises a UserError unless this JAX can read a program, and its default platform run it."""
  oldest = export.minimum_supported_calling_convention_version
  newest = export.maximum_supported_calling_convention_version
  if not oldest <= info.calling_convention_version <= newest:
    raise UserError(
      f"{directory} has calling convention {info.calling_convention_version} of jax.export, by jax "
      f"{info.jax_version}; jax {jax.__version__} reads {oldest} to {newest}: {_AGAIN} with this "
      "one, or install that one"
    )
  platform = export.default_export_platform()
  if platform not in info.platforms:
    raise UserError(
      f"{directory} is for {', '.join(info.platforms)}, not for {platform}: {_AGAIN} with "
      f"platforms=({platform!r},), or set JAX_PLATFORMS to one that it is for"
    )
