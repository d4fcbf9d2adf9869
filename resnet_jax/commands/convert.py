"""The command `convert`."""

import argparse
import pathlib
from typing import Any

from resnet_jax.commands.arguments import add_average, add_command, directory, only_fields, positive
from resnet_jax.commands.process import without_source_paths
from resnet_jax.errors import UserError

_MORE = """\
In: --source and --input name foreign weights, --model the network of the catalog that they are of,
--output the directory to write. What the weights need of the network is set and stored with them.
Fields are replaced as in train, for example --config.model.width_per_group=128. Out: --weights
names such a directory or a run, --format what to write, --output where. torchvision is a state
dict, one .safetensors file. stablehlo is a directory with a program for CPUs, GPUs and TPUs that
holds the weights and needs JAX, not this package; it takes uint8 pixels, and its output i is that
of class i.
"""


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "convert",
    execute,
    "read weights of other libraries, or write them",
    _MORE,
    takes_fields=True,
  )
  parser.add_argument("-h", "--help", action="help", help="show this message and exit")
  read = parser.add_argument_group("in")
  read.add_argument(
    "--source", choices=("torchvision", "timm", "transformers", "akamaster", "keras")
  )
  read.add_argument(
    "--input",
    metavar="FILE",
    help=".safetensors, .pth, .pt, .th, .bin or .h5; for timm and transformers also a folder with "
    "model.safetensors and config.json, or a name on the Hugging Face hub",
  )
  read.add_argument("--model", metavar="NAME", help="one of `resnet-jax models`: resnet50, …")
  read.add_argument(
    "--class-names", metavar="FILE", type=pathlib.Path, help="a line for each class, in order"
  )
  read.add_argument(
    "--class-offset",
    metavar="N",
    type=positive,
    help="how many outputs stand before that of the first class, such as a background's",
  )
  write = parser.add_argument_group("out")
  write.add_argument(
    "--weights",
    metavar="DIR",
    help="converted weights, or a run's: DIR (its last checkpoint), DIR:best or DIR:STEP",
  )
  add_average(write)
  write.add_argument("--format", choices=("torchvision", "stablehlo"), help="what to write")
  write.add_argument(
    "--image-size",
    metavar="N",
    type=positive,
    help="of stablehlo: it takes N x N pixels; where the preprocessing is known, those of its crop",
  )
  write.add_argument(
    "--normalized",
    action="store_true",
    help="of stablehlo: it takes float32 as the network does, and nothing is done to pixels",
  )
  parser.add_argument(
    "--output",
    metavar="PATH",
    type=directory,
    required=True,
    help="the directory to write, or for --format torchvision the .safetensors file",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  reading = (options.source, options.input, options.model)
  writing = (options.weights, options.format)
  shape = (options.image_size, options.normalized)
  if all(reading) and not any((*writing, *shape, options.ema)):
    return _read(options, rest)
  if not all(writing) or any((*reading, options.class_names, options.class_offset, *rest)):
    options.parser.error(
      "give --source, --input, --model and --output, or --weights, --format and --output"
    )
  if options.format == "stablehlo":
    return _write_stablehlo(options)
  if any(shape):
    options.parser.error("--image-size and --normalized are of --format stablehlo")
  return _write_torchvision(options)


def _read(options: argparse.Namespace, rest: list[str]) -> int:
  from resnet_jax import weights
  from resnet_jax.models.config import ModelConfig
  from resnet_jax.run.config import override_model
  from resnet_jax.run.files import require_free

  require_free(options.output)
  try:
    chosen = override_model(ModelConfig(options.model), rest, "resnet-jax convert")
  except ValueError as error:
    raise UserError(str(error)) from None
  if chosen.name != options.model:
    options.parser.error(f"--config.model.name={chosen.name}: --model is {options.model}")
  names = None if options.class_names is None else _lines(options.class_names)
  variables, info = weights.convert(
    options.source, options.input, options.model, chosen.overrides, names, options.class_offset or 0
  )
  info = weights.save_weights(options.output, variables, info)
  fields = ", ".join(f"{name}={value!r}" for name, value in info.model.overrides.items())
  print(f"{options.output}: {info.model.name} of {info.file}, with {fields}")
  if info.preprocessing is None:
    print("what it expects of pictures is not known: the input has no config.json beside it")
  if info.class_names is None:
    print("its classes have no names: --class-names gives them")
  return 0


def _write_torchvision(options: argparse.Namespace) -> int:
  from resnet_jax import weights
  from resnet_jax.training.weight_source import read_network

  if options.output.suffix != ".safetensors":
    options.parser.error(f"--output {options.output}: {options.format} is FILE.safetensors")
  where, model, variables, _ = read_network(options.weights, options.ema)
  weights.save_torchvision(options.output, model, variables)
  print(f"{options.output}: {where}")
  return 0


def _write_stablehlo(options: argparse.Namespace) -> int:
  from resnet_jax import weights
  from resnet_jax.run.files import require_free
  from resnet_jax.training.weight_source import read_network
  from resnet_jax.weights.directory import require_preprocessing
  from resnet_jax.weights.plain_arrays import flat, image_channels

  require_free(options.output)
  where, model, variables, info = read_network(options.weights, options.ema)
  model, variables = weights.without_offset(model, variables, info)
  if not options.normalized:
    try:
      require_preprocessing(where, info)
    except UserError as error:
      raise UserError(f"{error}; or give --normalized") from None
  image_shape = None
  if options.image_size is not None:
    image_shape = (options.image_size, options.image_size, image_channels(flat(variables)))
  with without_source_paths():  # whoever it is given to need not see this machine's
    exported = weights.save_export(
      options.output,
      model,
      variables,
      info.preprocessing,
      info.class_names,
      name=info.model.name,
      source=f"{info.file} ({info.source})".strip(),
      image_shape=image_shape,
      normalized=options.normalized,
    )
  shape = ", ".join(map(str, exported.input_shape))
  print(
    f"{options.output}: {where}; takes {exported.input_dtype} (N, {shape}), "
    f"{'pixels' if exported.input == 'pixels' else 'normalised as for the network'}; gives "
    f"{exported.outputs} logits; for {', '.join(exported.platforms)}"
  )
  return 0


def _lines(path: pathlib.Path) -> list[str]:
  try:
    return [line for line in path.read_text().splitlines() if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--class-names {path} cannot be read: {error}") from None
