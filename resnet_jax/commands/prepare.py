"""The command `prepare`."""

import argparse
import os
from typing import Any

from resnet_jax.commands.arguments import add_command, positive


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "prepare",
    execute,
    "download and prepare a data set through tensorflow-datasets",
    "Says what has to be downloaded by hand where that is so. Can be run again safely. Images in "
    "folders, DIR/train/CLASS/*.jpg, are the DATASET folder with --data-dir DIR. TFRecord files in "
    "a bucket are read there: --data-dir gs://BUCKET/DIR.",
  )
  parser.add_argument(
    "dataset",
    metavar="DATASET",
    help="cifar10, imagenet2012, folder, or any set of images with one label each that "
    "tensorflow-datasets has",
  )
  parser.add_argument(
    "--data-dir", metavar="DIR", help="default: $TFDS_DATA_DIR, or ~/tensorflow_datasets"
  )
  parser.add_argument(
    "--prepared-dir",
    metavar="DIR",
    help="where the mean image and the index go, if not into resnet_jax/ in the data directory (of "
    "a bucket: the user's cache); training needs the same as data.prepared_dir",
  )
  parser.add_argument("--manual-dir", metavar="DIR", help="where archives downloaded by hand lie")

  parser.add_argument(
    "--file-format",
    choices=("tfrecord", "array_record"),
    default="tfrecord",
    help="how tensorflow-datasets stores the examples",
  )
  parser.add_argument(
    "--image-size", type=int, default=224, help="of the mean image of streamed sets, in pixels"
  )
  parser.add_argument(
    "--short-side", type=int, default=256, help="to which images are resized for the mean image"
  )
  parser.add_argument(
    "--max-statistics-examples",
    type=positive,
    metavar="N",
    help="compute mean image and colours from N training images, evenly spread, instead of all",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  for variable, value in (("TF_CPP_MIN_LOG_LEVEL", "2"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
    os.environ.setdefault(variable, value)  # or TensorFlow greets on standard error
  from resnet_jax.data.prepare import prepare

  prepare(
    options.dataset,
    options.data_dir,
    own_root=options.prepared_dir,
    manual_dir=options.manual_dir,
    file_format=options.file_format,
    image_size=options.image_size,
    short_side=options.short_side,
    max_statistics_examples=options.max_statistics_examples,
  )
  return 0
