"""The command `evaluate`."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from resnet_jax.commands.arguments import (
  add_average,
  add_checkpoint,
  add_command,
  directory,
  location,
  positive,
)
from resnet_jax.commands.process import configure_jax
from resnet_jax.errors import UserError

# Of networks as large as those of ImageNet, on a machine of any size.
_BATCH_SIZE = 100


def add(commands: Any) -> None:
  """Adds its parser."""
  parser = add_command(
    commands,
    "evaluate",
    execute,
    "measure the network of a run, or converted weights, on a split, every example once",
    "Several are measured as an ensemble: the mean of their softmax scores. The last line is the "
    "accuracy, or with --json all results.",
  )
  for name, kind, what in (
    ("--workdir", location, "a run's directory, or gs://… in a bucket"),
    ("--weights", directory, "a directory of converted weights, shown what they expect"),
  ):
    parser.add_argument(
      name,
      metavar="DIR",
      type=kind,
      default=[],
      action="append",
      help=f"{what}; again for each further member of an ensemble",
    )
  add_checkpoint(parser)
  add_average(parser)
  parser.add_argument("--split", choices=("validation", "test"), default="validation")
  parser.add_argument(
    "--dataset", metavar="NAME", help="of --weights: on which data set; see `prepare --help`"
  )
  parser.add_argument("--data-dir", metavar="DIR", help="where the data lies, or a run's lies now")
  parser.add_argument(
    "--batch-size",
    metavar="N",
    type=positive,
    help="views at a time, over all devices; the results are the same. Default: the run's "
    f"evaluation_batch_size; {_BATCH_SIZE} for weights",
  )
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
  if not options.workdir and not options.weights:
    options.parser.error("give --workdir or --weights")
  if bool(options.weights) != bool(options.dataset):
    options.parser.error("--weights and --dataset are given together")
  if not options.workdir and (options.ema or options.checkpoint != "last"):
    options.parser.error("--checkpoint and --ema belong to --workdir")
  configure_jax()
  from resnet_jax.commands.evaluation_output import print_results, write_confusion
  from resnet_jax.evaluation.protocols import Protocol
  from resnet_jax.evaluation.results import outcomes
  from resnet_jax.evaluation.scores import mean_scores
  from resnet_jax.run.location import open_location

  sides = tuple(options.short_sides or ()) or (options.short_side and (options.short_side,))
  protocol = Protocol(options.protocol, options.crop, sides or None, options.quantum)
  locations = [open_location(text) for text in options.workdir]
  for each in locations:
    each.fetch(exists=True)
  members = _open(options, [each.path for each in locations], protocol)
  found = outcomes(mean_scores(member.score() for member in members))
  if options.confusion:
    write_confusion(options.confusion, found, members[0].dataset.class_names)
  if options.split == "test":
    _record(locations, members, protocol, found.metrics())
  print_results(members, found, per_class=options.per_class, as_json=options.json)
  return 0


def _open(options: argparse.Namespace, workdirs: Sequence[pathlib.Path], protocol: Any) -> Any:
  """The members, everything about them checked before any is measured."""
  from resnet_jax.data.config import DataConfig
  from resnet_jax.data.dataset import examples_fingerprint
  from resnet_jax.training.evaluation import open_run, open_weights

  split, data_dir, batch_size = options.split, options.data_dir, options.batch_size
  members = [
    open_run(workdir, options.checkpoint, options.ema, split, protocol, data_dir, batch_size)
    for workdir in workdirs
  ]
  for weights in options.weights:
    data = DataConfig(options.dataset, data_dir)
    members.append(open_weights(weights, data, split, protocol, batch_size or _BATCH_SIZE))
  first, *others = members
  for other in others:
    if other.dataset.class_names != first.dataset.class_names:
      raise UserError(f"{other.place} has other classes than {first.place}: no ensemble")
    if examples_fingerprint(other.split) != examples_fingerprint(first.split):
      raise UserError(
        f"the {options.split} split of {other.place} is not that of {first.place}: no ensemble"
      )
  return members


def _record(
  locations: Sequence[Any], members: Any, protocol: Any, values: dict[str, float]
) -> None:
  """Adds a line to metrics.jsonl, for one run as its validation shows it."""
  from resnet_jax.run.records import record_once
  from resnet_jax.training.evaluation import RunOrigin

  run = members[0].origin
  if len(members) > 1 or not protocol.is_the_runs_own or not isinstance(run, RunOrigin):
    return
  try:
    with locations[0].held():
      record_once(run.workdir, run.step, "test", average=run.ema_decay is not None, **values)
  except (UserError, OSError) as error:
    print(f"not recorded: {error}", file=sys.stderr)


def _matrix_file(text: str) -> pathlib.Path:
  path = pathlib.Path(text)
  if path.suffix not in (".npz", ".csv"):
    raise argparse.ArgumentTypeError(f"{text!r} ends neither in .npz nor in .csv")
  if path.is_dir():
    raise argparse.ArgumentTypeError(f"{path} is a directory")
  if not path.parent.is_dir():
    raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
  return path
