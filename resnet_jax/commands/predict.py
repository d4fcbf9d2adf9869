"""The command `predict`."""

import argparse
import json
from typing import Any

from resnet_jax.commands.arguments import (
  add_average,
  add_checkpoint,
  add_command,
  directory,
  location,
  positive,
)
from resnet_jax.commands.process import EXIT_USER_ERROR, configure_jax
from resnet_jax.errors import UserError


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "predict",
    execute,
    "tell the classes of pictures",
    "A picture is shown as in evaluation: resized, the centre cropped. What is no picture is named "
    "and passed over, and the exit status is then 2.",
  )
  network = parser.add_mutually_exclusive_group(required=True)
  network.add_argument(
    "--workdir", metavar="DIR", type=location, help="the network of a run, here or in a bucket"
  )
  network.add_argument("--weights", metavar="DIR", type=directory, help="converted weights")
  network.add_argument(
    "--export",
    metavar="DIR",
    type=directory,
    help="a program that `convert --format stablehlo` wrote",
  )
  parser.add_argument(
    "images",
    metavar="IMAGE",
    nargs="+",
    type=_image,
    help="a file; a folder, for all pictures in and below it; or a pattern such as 'a/**/*.jpg'",
  )
  add_checkpoint(parser)
  add_average(parser)
  parser.add_argument(
    "--top", metavar="K", type=positive, default=5, help="how many classes of each; default: 5"
  )
  parser.add_argument(
    "--batch-size", metavar="N", type=positive, default=32, help="pictures at a time; default: 32"
  )
  parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  if options.workdir is None and (options.ema or options.checkpoint != "last"):
    options.parser.error("--checkpoint and --ema belong to --workdir")
  configure_jax()
  from resnet_jax.commands.prediction_output import as_json, print_prediction, print_unreadable
  from resnet_jax.data.decode import decoding_threads
  from resnet_jax.evaluation.prediction import Prediction, find_pictures, predict

  files = find_pictures(options.images)
  classifier = _open(options)
  found = []
  for one in predict(classifier, files, options.top, options.batch_size, decoding_threads(0)):
    found.append(one)
    if not isinstance(one, Prediction):
      print_unreadable(one)
    elif not options.json:
      print_prediction(one, classifier)
  if options.json:
    print(json.dumps(as_json(found, classifier), allow_nan=False))
  return 0 if all(isinstance(one, Prediction) for one in found) else EXIT_USER_ERROR


def _image(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError("is empty")
  return text


def _open(options: argparse.Namespace) -> Any:
  from resnet_jax.run.location import open_location
  from resnet_jax.training.classifiers import classifier_of_export, classifier_of_network
  from resnet_jax.weights.directory import is_weights_directory, read_info
  from resnet_jax.weights.stablehlo import is_export

  if options.export:
    return classifier_of_export(options.export)
  if options.weights:
    if is_export(options.weights):
      raise UserError(f"{options.weights} holds an exported program: give --export")
    read_info(options.weights)  # which says if there are none
    return classifier_of_network(str(options.weights))
  run = open_location(options.workdir)
  run.fetch(exists=True)
  if is_weights_directory(run.path):
    raise UserError(f"{run} holds converted weights, not a run: give --weights")
  return classifier_of_network(f"{run.path}:{options.checkpoint}", options.ema)
