"""What predicts the classes of pictures: a run, converted weights, or an exported program."""

import dataclasses
import pathlib
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.evaluation.classifier import Classifier, make_classifier, network_logits
from resnet_jax.training.weight_source import read_network
from resnet_jax.weights.class_offset import without_offset
from resnet_jax.weights.directory import require_preprocessing
from resnet_jax.weights.stablehlo import load_export


def classifier_of_network(source: str, average: bool = False) -> Classifier:
  """The network of a run, or of converted weights; needs no data set and no experiment file.

  Args:
    source: A run, "DIR", "DIR:best" or "DIR:STEP", or a directory of weights.
    average: Whether the moving average of a run's weights.

  Raises:
    UserError: There is none, or it is not known what it expects of pictures.
  """
  where, model, variables, info = read_network(source, average)
  preprocessing = require_preprocessing(where, info)
  model, variables = without_offset(model, variables, info)
  logits = network_logits(model, variables, preprocessing)
  return make_classifier(where, logits, preprocessing, len(preprocessing.mean), info.class_names)


def classifier_of_export(directory: pathlib.Path) -> Classifier:
  """An exported program; raises a UserError if it is none, or not known what it expects."""
  call, info = load_export(directory)
  if info.preprocessing is None:
    raise UserError(f"what {directory} expects of pictures is not known: export it again, with it")
  size = info.input_shape[0]
  preprocessing = dataclasses.replace(
    info.preprocessing, size=size, resize=max(size, info.preprocessing.short_side or size)
  )

  def normalized(pixels: Any) -> Any:
    return call(preprocessing(pixels))

  logits = call if info.input == "pixels" else normalized
  return make_classifier(
    str(directory), logits, preprocessing, info.input_shape[2], info.class_names
  )
