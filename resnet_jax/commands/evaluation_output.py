"""What `evaluate` prints and writes."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.evaluation.results import Outcomes, wilson_interval
from resnet_jax.training.evaluation import Member, RunOrigin


def print_results(
  members: Sequence[Member], found: Outcomes, per_class: bool, as_json: bool
) -> None:
  """Says which networks were measured, on what and how, and what came of it.

  Args:
    members: The networks; all on the same split.
    found: The result.
    per_class: Whether to say it of each class too.
    as_json: Whether as one JSON object on one line, instead of text.
  """
  names = members[0].dataset.class_names
  if as_json:
    print(json.dumps(_as_json(members, found, names if per_class else ()), allow_nan=False))
    return
  for member in members:
    _print_member(member)
  if len(members) > 1:
    print(f"ensemble: the mean of the softmax scores of {len(members)} networks")
  metrics = found.metrics()
  for name, value in metrics.items():
    print(
      f"{name.replace('_', ' ')}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
    )
  for k in (1, 5):
    print(f"top-{k} error: {_error(found, k)}")
  if per_class:
    width = max(map(len, names))
    print(f"{'class':{width}}  top-1 error")
    for label, name in enumerate(names):
      of_class = found.of_class(label)
      print(f"{name:{width}}  {_error(of_class, 1) if of_class.examples else 'no examples'}")
  print(f"{members[0].split.name} accuracy: {metrics['accuracy']:.2%}")


def write_confusion(path: pathlib.Path, found: Outcomes, class_names: Sequence[str]) -> None:
  """Writes the matrix of labels (rows) and predictions (columns).

  Args:
    path: A .npz with `confusion` (classes, classes) int64 and `class_names`; or a .csv with the
      names in its first row and column.
    found: The result.
    class_names: In the order of the labels.
  """
  matrix = found.confusion()
  if path.suffix == ".npz":
    np.savez_compressed(path, confusion=matrix, class_names=np.array(class_names))
    return
  with path.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["label \\ predicted", *class_names])
    writer.writerows([name, *row] for name, row in zip(class_names, matrix.tolist(), strict=True))


def _print_member(member: Member) -> None:
  origin, shown = member.origin, f"on the {member.split.name} split of {member.dataset.name}"
  if isinstance(origin, RunOrigin):
    print(f"{origin.model} after step {origin.step} of {origin.workdir} {shown}")
    averaged = origin.ema_decay is not None
    print(f"average weights (ema_decay {origin.ema_decay})" if averaged else "raw weights")
    print(f"checkpoint: {origin.checkpoint}")
    if origin.reestimation:
      print(f"batch statistics: re-estimated of {origin.reestimation.examples} training examples")
  else:
    info = origin.info
    print(f"{info.model.name} of {origin.directory} {shown}")
    print(f"weights: {' '.join(filter(None, (info.source, info.file)))}, SHA-256 {info.sha256}")
    if info.class_offset:
      print(f"class offset: {info.class_offset} (so many first outputs are left out)")
    if info.top1 is not None:
      print(f"published top-1 accuracy: {info.top1:.2%}")
  print(f"protocol: {member.protocol}")


def _error(found: Outcomes, k: int) -> str:
  errors = found.errors(k)
  low, high = wilson_interval(errors, found.examples)
  share = errors / found.examples
  return f"{share:.2%} ({errors} of {found.examples}; 95 % interval {low:.2%} to {high:.2%})"


def _error_values(found: Outcomes, k: int) -> dict[str, Any]:
  errors = found.errors(k)
  if not found.examples:
    return {"errors": errors, "error": None, "interval": None}
  interval = wilson_interval(errors, found.examples)
  return {"errors": errors, "error": errors / found.examples, "interval": interval}


def _as_json(
  members: Sequence[Member], found: Outcomes, class_names: Sequence[str]
) -> dict[str, Any]:
  values: dict[str, Any] = {
    "members": [_member_values(member) for member in members],
    "dataset": members[0].dataset.name,
    "split": members[0].split.name,
    **found.metrics(),
    "top1": _error_values(found, 1),
    "top5": _error_values(found, 5),
  }
  if class_names:
    parts = map(found.of_class, range(len(class_names)))
    values["classes"] = [
      {
        "class": name,
        "examples": part.examples,
        "top1": _error_values(part, 1),
        "top5": _error_values(part, 5),
      }
      for name, part in zip(class_names, parts, strict=True)
    ]
  return values


def _member_values(member: Member) -> dict[str, Any]:
  origin, protocol = member.origin, dataclasses.asdict(member.protocol)
  if isinstance(origin, RunOrigin):
    reestimation = origin.reestimation
    return {
      "workdir": str(origin.workdir),
      "model": origin.model,
      "checkpoint": origin.checkpoint,
      "step": origin.step,
      "weights": "raw" if origin.ema_decay is None else "average",
      "batch_statistics": dataclasses.asdict(reestimation) if reestimation else "training",
      "protocol": protocol,
    }
  info = origin.info
  return {
    "directory": str(origin.directory),
    "model": info.model.name,
    "source": info.source,
    "file": info.file,
    "sha256": info.sha256,
    "class_offset": info.class_offset,
    "published_top1": info.top1,
    "protocol": protocol,
  }
