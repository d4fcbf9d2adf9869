"""The command `evaluate`."""

import argparse
import pathlib
import sys
from typing import Any

from resnet_jax.commands.arguments import add_command, positive
from resnet_jax.commands.process import configure_jax
from resnet_jax.errors import UserError


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "evaluate",
    execute,
    "measure a run's network on a split, every example once",
    "Several runs are measured as an ensemble: the mean of their softmax scores. The last line is "
    "the accuracy, or with --json all results.",
  )
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    type=pathlib.Path,
    required=True,
    action="append",
    help="the run's directory; again for each further member of an ensemble",
  )
  parser.add_argument(
    "--checkpoint",
    metavar="last|best|STEP",
    default="last",
    help="which weights: the last, the best by the run's checkpoint.metric, or a step's",
  )
  parser.add_argument(
    "--ema",
    action="store_true",
    help="the moving average of the weights instead, of a run with ema_decay",
  )
  parser.add_argument("--split", choices=("validation", "test"), default="validation")
  parser.add_argument("--data-dir", metavar="DIR", help="where the data lies now")
  _add_protocol(parser)
  results = parser.add_argument_group("results")
  results.add_argument("--per-class", action="store_true", help="a line for each class too")
  results.add_argument(
    "--confusion",
    metavar="FILE.npz|.csv",
    type=_matrix_file,
    help="write how many examples of each class were taken for which",
  )
  results.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _add_protocol(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    "protocol (sets of pictures; digits and CIFAR are shown whole)",
    "Without any of these the network is shown what it was validated by.",
  )
  group.add_argument(
    "--protocol",
    choices=("center", "ten_crop", "dense"),
    default="center",
    help="the centre crop; four corners and centre, each mirrored too; or every place of whole "
    "pictures of several sizes, mirrored too",
  )
  group.add_argument(
    "--short-side", metavar="N", type=positive, help="pixels to which pictures are resized"
  )
  group.add_argument("--crop", metavar="N", type=positive, help="height and width of a view")
  group.add_argument(
    "--short-sides",
    metavar="N",
    type=positive,
    nargs="+",
    help="of dense (224 256 384 480 640)",
  )
  group.add_argument(
    "--quantum",
    metavar="N",
    type=positive,
    help="of dense: long sides are rounded to a multiple of this, for which few programs are "
    "compiled; 1 is exact (32)",
  )


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  del rest
  if options.short_side and options.short_sides:
    options.parser.error("give --short-side or --short-sides")
  if options.short_side and options.protocol == "dense":
    options.parser.error("--protocol dense takes --short-sides")
  configure_jax()
  from resnet_jax.commands.evaluation_output import print_results, write_confusion
  from resnet_jax.evaluation.protocols import Protocol
  from resnet_jax.evaluation.results import outcomes
  from resnet_jax.evaluation.scores import mean_scores

  sides = tuple(options.short_sides or ()) or (options.short_side and (options.short_side,))
  protocol = Protocol(options.protocol, options.crop, sides or None, options.quantum)
  members = _open(options, protocol)
  found = outcomes(mean_scores(member.score() for member in members))
  dataset = members[0].run.dataset
  if options.confusion:
    write_confusion(options.confusion, found, dataset.class_names)
  if options.split == "test":
    _record(members, protocol, found.metrics())
  print_results(members, found, per_class=options.per_class, as_json=options.json)
  return 0


def _open(options: argparse.Namespace, protocol: Any) -> Any:
  """The members, everything about them checked before any is measured."""
  from resnet_jax.data.dataset import examples_fingerprint
  from resnet_jax.training.evaluation import open_member

  members = [
    open_member(workdir, options.checkpoint, options.ema, options.split, protocol, options.data_dir)
    for workdir in options.workdir
  ]
  first, *others = members
  for other in others:
    if other.run.dataset.class_names != first.run.dataset.class_names:
      raise UserError(f"{other.workdir} has other classes than {first.workdir}: no ensemble")
    if examples_fingerprint(other.split) != examples_fingerprint(first.split):
      raise UserError(
        f"the {options.split} split of {other.workdir} is not that of {first.workdir}: no ensemble"
      )
  return members


def _record(members: Any, protocol: Any, values: dict[str, float]) -> None:
  """Adds a line to metrics.jsonl, for one run as its validation shows it."""
  from resnet_jax.run.lock import locked
  from resnet_jax.run.records import record_once

  if len(members) > 1 or not protocol.is_the_runs_own:
    return
  (member,) = members
  try:
    with locked(member.workdir):
      record_once(member.workdir, member.step, "test", average=member.average, **values)
  except UserError as error:
    print(f"not recorded: {error}", file=sys.stderr)


def _matrix_file(text: str) -> pathlib.Path:
  path = pathlib.Path(text)
  if path.suffix not in (".npz", ".csv"):
    raise argparse.ArgumentTypeError(f"{text!r} ends neither in .npz nor in .csv")
  if not path.parent.is_dir():
    raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
  return path
