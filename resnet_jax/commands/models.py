"""The command `models`."""

import argparse
from typing import Any

from resnet_jax.commands.arguments import add_command, only_fields, positive
from resnet_jax.errors import UserError


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "models",
    execute,
    "list the networks, or the layers of one",
    "Parameters, and multiply-adds for one image as the paper's Table 1 counts them. Fields of the "
    "network are replaced as in train: resnet-jax models resnet50 --config.model.stride_in=3x3; "
    "give NAME and --help together to see them all.",
    takes_fields=True,
  )
  parser.add_argument("-h", "--help", action="store_true", help="show this message and exit")
  parser.add_argument("name", metavar="NAME", nargs="?", help="one of them: resnet50, …")
  parser.add_argument(
    "--image-size", type=positive, metavar="N", help="side of the image; default: the paper's"
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  only_fields(options, rest)
  if options.help:
    options.parser.print_help()
    if options.name is None:
      return 0
    rest = [*rest, "--help"]
    print()
  from resnet_jax.models.catalog import image_shape
  from resnet_jax.models.config import ModelConfig
  from resnet_jax.models.table import catalog_table, layer_table
  from resnet_jax.run.config import override_model

  if options.name is None:
    if rest or options.image_size:
      options.parser.error("--image-size and fields need the NAME of a network")
    print(catalog_table())
    return 0
  prog = f"resnet-jax models {options.name}"
  try:
    height, width, channels = image_shape(options.name)
    config = override_model(ModelConfig(options.name), rest, prog)
    if config.name != options.name:
      options.parser.error(f"--config.model.name={config.name}: NAME is {options.name}; give one")
    size = (options.image_size or height, options.image_size or width, channels)
    print(layer_table(config.create(), size))
  except ValueError as error:
    raise UserError(str(error)) from None
  return 0
