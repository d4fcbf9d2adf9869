"""What `predict` prints."""

import sys
from collections.abc import Sequence
from typing import Any

from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.prediction import Prediction, Unreadable


def print_prediction(one: Prediction, classifier: Classifier) -> None:
  """The file, and a line for each of its classes."""
  lines = [
    f"  {score:8.2%}  {_name(number, classifier)}"
    for number, score in zip(one.classes, one.scores, strict=True)
  ]
  text = "\n".join([_printable(one.file), *lines])
  encoding = sys.stdout.encoding or "utf-8"
  print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def print_unreadable(one: Unreadable) -> None:
  """Names what is no picture, among the errors."""
  print(f"resnet-jax: {_printable(one.file)}: {one.reason}", file=sys.stderr, flush=True)


def as_json(found: Sequence[Prediction | Unreadable], classifier: Classifier) -> dict[str, Any]:
  """All of it: `predictions`, `unreadable`, and which `network` it is of."""
  return {
    "network": classifier.name,
    "predictions": [
      {
        "file": one.file,
        "top": [
          {"class": _name(number, classifier), "index": number, "score": score}
          for number, score in zip(one.classes, one.scores, strict=True)
        ],
      }
      for one in found
      if isinstance(one, Prediction)
    ],
    "unreadable": [
      {"file": one.file, "reason": one.reason} for one in found if isinstance(one, Unreadable)
    ],
  }


def _printable(file: str) -> str:
  """A file's name on one line, and without what would control a terminal."""
  return "".join(
    letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in file
  )


def _name(number: int, classifier: Classifier) -> str:
  names = classifier.class_names
  return f"class {number}" if names is None else names[number]
