"""The front door: parses the command line, calls, prints. The only file that configures JAX."""

import argparse
import math
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from resnet_jax import __version__
from resnet_jax.errors import UserError

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
EXIT_BROKEN_PIPE = 141  # As that of a program that SIGPIPE ends.

_EPILOG = """\
first steps:
  resnet-jax train --config digits --workdir runs/digits
  resnet-jax evaluate --workdir runs/digits --split test
  resnet-jax report runs/digits --output runs/report

Each command explains itself: resnet-jax COMMAND --help
"""

_BENCHMARK_INPUT = """\
Reads the training view of a prepared data set as training does, up to the step, and says how many
images a second that gives, how many a second of CPU time, and how long a step waits. With --peers,
the same images go through others' pipelines too. Fields of the data section are replaced as in
train: --config.data.streaming.short_side_max=256
"""

_BENCHMARK_INPUT_EPILOG = """\
Each side runs in a process of its own, which is stopped while it is another's turn; all read the
same files, from memory by then, with as many threads. Nothing else should run on the machine.

  resnet-jax benchmark input --dataset imagenet2012 --data-dir DATA --peers
  resnet-jax benchmark input --dataset imagenet2012 --data-dir DATA --step-ms 120 --batch-size 256
"""


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one command and exits: 0 done, 2 a mistake of the user's, 75 pre-empted and saved.

  1 is a failure of the machine (a full disk, say), or with a traceback a defect of ours.
  """
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  if rest and options.command not in (_train, _models, _benchmark_input):
    parser.error(f"unrecognized arguments: {' '.join(rest)}")
  try:
    status = options.command(options, rest)
    sys.stdout.flush()
    sys.exit(status)
  except UserError as error:
    print(f"resnet-jax: {error}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
  except BrokenPipeError:  # `resnet-jax models | head`: nobody reads on
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains
    sys.exit(EXIT_BROKEN_PIPE)
  except OSError as error:  # a full disk, a directory without permission
    print(f"resnet-jax: {error}", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print("\nresnet-jax: interrupted", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="resnet-jax",
    description="Deep residual learning in JAX and Flax: train, resume, evaluate, report.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--version", action="version", version=f"resnet_jax {__version__}")
  commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

  def command(
    name: str, function: Callable[[argparse.Namespace, list[str]], int], summary: str, more: str
  ) -> argparse.ArgumentParser:
    sub = commands.add_parser(
      name,
      help=summary,
      description=f"{summary[0].upper()}{summary[1:]}. {more}",
      allow_abbrev=False,
      add_help=name not in ("train", "models"),
    )
    sub.set_defaults(command=function, parser=sub)
    return sub

  train = command(
    "train",
    _train,
    "train a network, or go on where the run in the workdir stopped",
    "Run the same command again to resume. Fields of the config are replaced by "
    "--config.FIELD=VALUE; give --config and --help together to see them all.",
  )
  train.add_argument("-h", "--help", action="store_true", help="show this message and exit")
  train.add_argument(
    "--config",
    metavar="FILE[:ARG]",
    help="a Python file whose get_config(ARG) returns a Config, or a built-in experiment "
    "(digits, cifar10, imagenet)",
  )
  train.add_argument("--workdir", metavar="DIR", type=_directory, help="the run's directory")
  train.add_argument(
    "--dry-run",
    action="store_true",
    help="resolve the config, compile the step, print what the run takes, and end",
  )

  evaluate = command(
    "evaluate",
    _evaluate,
    "measure a run's network on a split, every example once",
    "The last line is the accuracy.",
  )
  evaluate.add_argument("--workdir", metavar="DIR", type=pathlib.Path, required=True)
  evaluate.add_argument(
    "--checkpoint",
    metavar="last|best|STEP",
    default="last",
    help="which weights: the last, the best by the run's checkpoint.metric, or a step's",
  )
  evaluate.add_argument("--split", choices=("validation", "test"), default="validation")
  evaluate.add_argument("--data-dir", metavar="DIR", help="where the data lies now")

  models = command(
    "models",
    _models,
    "list the networks, or the layers of one",
    "Parameters, and multiply-adds for one image as the paper's Table 1 counts them. Fields of the "
    "network are replaced as in train: resnet-jax models resnet50 --config.model.stride_in=3x3; "
    "give NAME and --help together to see them all.",
  )
  models.add_argument("-h", "--help", action="store_true", help="show this message and exit")
  models.add_argument("name", metavar="NAME", nargs="?", help="one of them: resnet50, …")
  models.add_argument(
    "--image-size", type=_positive, metavar="N", help="side of the image; default: the paper's"
  )

  prepare = command(
    "prepare",
    _prepare,
    "download and prepare a data set through tensorflow-datasets",
    "Says what has to be downloaded by hand where that is so. Can be run again safely. Images in "
    "folders, DIR/train/CLASS/*.jpg, are the DATASET folder with --data-dir DIR. TFRecord files in "
    "a bucket are read there: --data-dir gs://BUCKET/DIR.",
  )
  prepare.add_argument(
    "dataset",
    metavar="DATASET",
    help="cifar10, imagenet2012, folder, or any set of images with one label each that "
    "tensorflow-datasets has",
  )
  prepare.add_argument(
    "--data-dir", metavar="DIR", help="default: $TFDS_DATA_DIR, or ~/tensorflow_datasets"
  )
  prepare.add_argument(
    "--prepared-dir",
    metavar="DIR",
    help="where the mean image and the index go, if not into resnet_jax/ in the data directory (of "
    "a bucket: the user's cache); training needs the same as data.prepared_dir",
  )
  prepare.add_argument("--manual-dir", metavar="DIR", help="where archives downloaded by hand lie")

  prepare.add_argument(
    "--file-format",
    choices=("tfrecord", "array_record"),
    default="tfrecord",
    help="how tensorflow-datasets stores the examples",
  )
  prepare.add_argument(
    "--image-size", type=int, default=224, help="of the mean image of streamed sets, in pixels"
  )
  prepare.add_argument(
    "--short-side", type=int, default=256, help="to which images are resized for the mean image"
  )
  prepare.add_argument(
    "--max-statistics-examples",
    type=_positive,
    metavar="N",
    help="compute mean image and colours from N training images, evenly spread, instead of all",
  )

  report = command(
    "report",
    _report,
    "draw the curves of one or more runs",
    "Writes pictures and a page that shows them.",
  )
  report.add_argument("workdirs", metavar="WORKDIR", nargs="+", type=pathlib.Path)
  report.add_argument("--output", metavar="DIR", type=pathlib.Path, required=True)

  benchmark = command(
    "benchmark",
    _benchmark_input,
    "measure how fast parts of this package are",
    "The last line of each is one JSON object.",
  )
  _add_benchmark_input(benchmark.add_subparsers(title="parts", metavar="PART", required=True))
  return parser


def _add_benchmark_input(parts: Any) -> None:
  sub = parts.add_parser(
    "input",
    help="reading, decoding and cropping of training images",
    description=_BENCHMARK_INPUT,
    epilog=_BENCHMARK_INPUT_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  sub.set_defaults(command=_benchmark_input, parser=sub)
  sub.add_argument(
    "--dataset",
    metavar="NAME",
    required=True,
    help="imagenet2012 or another prepared set, or folder",
  )
  sub.add_argument(
    "--data-dir", metavar="DIR", help="default: $TFDS_DATA_DIR, or ~/tensorflow_datasets"
  )
  sub.add_argument(
    "--peers",
    action="store_true",
    help="also measure JPEG decoding alone, tf.data and a PyTorch DataLoader "
    '(pip install "resnet_jax[tfds,torch]")',
  )
  sub.add_argument(
    "--scaling", action="store_true", help="also measure ours with one and with two threads"
  )
  length = sub.add_mutually_exclusive_group()
  length.add_argument(
    "--seconds", type=_positive_number, metavar="S", default=5.0, help="of each turn; default: 5"
  )
  length.add_argument(
    "--images", type=_positive, metavar="N", help="of each turn, instead of seconds"
  )
  sub.add_argument(
    "--rounds", type=_positive, metavar="N", default=5, help="turns of every side; default: 5"
  )
  sub.add_argument("--batch-size", type=_positive, metavar="N", default=64, help="default: 64")
  sub.add_argument(
    "--threads", type=_positive, metavar="T", default=0, help="on every side; default: one a core"
  )
  sub.add_argument(
    "--examples",
    type=_positive,
    metavar="N",
    default=1000,
    help="the first N training examples are read over and over; default: 1000",
  )
  sub.add_argument(
    "--step-ms",
    type=_positive_number,
    metavar="MS",
    default=0.0,
    help="also measure the wait behind a step of so many milliseconds on an accelerator; default: "
    "a step that takes no time",
  )
  sub.add_argument("--json-only", action="store_true", help="print the JSON object alone")


def _positive_number(text: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 < number < math.inf:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
  return number


def _directory(text: str) -> pathlib.Path:
  if not text:
    raise argparse.ArgumentTypeError("is empty")
  return pathlib.Path(text)


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
  return int(text)


def _only_fields(options: argparse.Namespace, rest: list[str]) -> None:
  """Exits unless all further arguments are fields of the config."""
  for argument in rest:
    if argument.startswith("--") and not argument.startswith("--config."):
      options.parser.error(f"unrecognized argument: {argument}")


def _train(options: argparse.Namespace, rest: list[str]) -> int:
  _only_fields(options, rest)
  if options.help:
    options.parser.print_help()
    if not options.config:
      return 0
    rest = [*rest, "--help"]
    print()
  elif not options.config or not options.workdir:
    options.parser.error("--config and --workdir are required")
  _configure_jax()
  from resnet_jax.run.config import load_config, override_config
  from resnet_jax.training.config import Config, changeable

  config = override_config(load_config(options.config, Config), rest, "resnet-jax train")
  from resnet_jax.run.environment import record_environment
  from resnet_jax.run.lock import locked
  from resnet_jax.run.workdir import check_claim, claim
  from resnet_jax.training.build import build_run
  from resnet_jax.training.dry_run import describe_run
  from resnet_jax.training.loop import fit
  from resnet_jax.training.restore import require_resumable

  run = build_run(config)
  if options.dry_run:
    print(describe_run(run))
    return 0
  changed = check_claim(options.workdir, config, changeable(config))
  require_resumable(run, options.workdir)
  with locked(options.workdir):
    claim(options.workdir, config, changeable(config))
    for name, (before, after) in changed.items():
      print(f"goes on with {name}={after!r} instead of {before!r}")
    record_environment(options.workdir)
    preempted = _Preempted()
    state = fit(run, options.workdir, preempted)
  if preempted() and state.step < run.steps:
    print("resnet-jax: saved after SIGTERM; run the same command to go on", file=sys.stderr)
    return EXIT_PREEMPTED
  return 0


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
  del rest
  _configure_jax()
  import dataclasses

  from resnet_jax.evaluation.accuracy import Evaluator
  from resnet_jax.run.lock import locked
  from resnet_jax.run.records import record_once
  from resnet_jax.run.workdir import read_config
  from resnet_jax.training.build import build_run
  from resnet_jax.training.config import Config
  from resnet_jax.training.restore import restore_variables

  config = read_config(options.workdir, Config)
  if options.data_dir:
    config = dataclasses.replace(
      config, data=dataclasses.replace(config.data, data_dir=options.data_dir)
    )
  run = build_run(config, trains=False)
  splits = run.dataset.splits
  if options.split not in splits:
    raise UserError(f"{run.dataset.name} has no {options.split} split here: {', '.join(splits)}")
  step, variables = restore_variables(run, options.workdir, options.checkpoint)
  print(
    f"{config.model.name} after step {step} of {options.workdir} on the {options.split} split of "
    f"{run.dataset.name}"
  )
  values = Evaluator(run.model, splits[options.split], config.evaluation_batch_size, run.key)(
    variables
  )
  for name, value in values.items():
    print(
      f"{name.replace('_', ' ')}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
    )
  if options.split == "test":
    try:
      with locked(options.workdir):
        record_once(options.workdir, step, "test", **values)
    except UserError as error:
      print(f"not recorded: {error}", file=sys.stderr)
  print(f"{options.split} accuracy: {values['accuracy']:.2%}")
  return 0


def _models(options: argparse.Namespace, rest: list[str]) -> int:
  _only_fields(options, rest)
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


def _prepare(options: argparse.Namespace, rest: list[str]) -> int:
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


def _report(options: argparse.Namespace, rest: list[str]) -> int:
  del rest
  from resnet_jax.analysis.report import write_report

  print(write_report(options.workdirs, options.output))
  return 0


def _benchmark_input(options: argparse.Namespace, rest: list[str]) -> int:
  for argument in rest:
    if argument.startswith("--") and not argument.startswith("--config.data."):
      options.parser.error(f"unrecognized argument: {argument} (fields: --config.data.FIELD=VALUE)")
  import dataclasses
  import json

  from resnet_jax.benchmarks.input import InputBenchmark, run_input_benchmark
  from resnet_jax.run.config import load_config, override_config
  from resnet_jax.training.config import Config

  config = load_config("imagenet", Config)
  data = dataclasses.replace(config.data, dataset=options.dataset, data_dir=options.data_dir)
  config = override_config(
    dataclasses.replace(config, data=data), rest, "resnet-jax benchmark input"
  )
  benchmark = InputBenchmark(
    data=config.data,
    batch_size=options.batch_size,
    threads=options.threads,
    examples=options.examples,
    rounds=options.rounds,
    seconds=options.seconds,
    images=options.images,
    step_ms=options.step_ms,
    peers=options.peers,
    scaling=options.scaling,
  )

  def say(line: str) -> None:
    if not options.json_only:
      print(line, flush=True)

  print(json.dumps(run_input_benchmark(benchmark, say)))
  return 0


def _configure_jax() -> None:
  """Settings of the process, which no import of the package makes."""
  from resnet_jax.compilation_cache import enable_compilation_cache
  from resnet_jax.run.failed_saves import silence_failed_saves

  enable_compilation_cache(pathlib.Path("~/.cache/resnet_jax/compilations").expanduser())
  silence_failed_saves()


class _Preempted:
  """Whether SIGTERM has come; from then on a second one ends the process at once."""

  def __init__(self) -> None:
    self._received = False
    signal.signal(signal.SIGTERM, self._receive)

  def __call__(self) -> bool:
    return self._received

  def _receive(self, signum: int, frame: FrameType | None) -> None:
    del frame
    self._received = True
    signal.signal(signum, signal.SIG_DFL)
