"""The command `sweep` with `--trials`: a search."""

import argparse
import importlib.util
import pathlib
import sys

from resnet_jax.commands.process import EXIT_PREEMPTED, Stops, keep_to_cpu
from resnet_jax.data.prepared import is_address
from resnet_jax.errors import UserError


def execute(options: argparse.Namespace, rest: list[str]) -> int:
  """Does it; gives the exit status."""
  if options.launcher != "local":
    options.parser.error(
      "--trials goes with --launcher local: a search waits for what its runs record. Start the "
      "same command on as many hosts as you like, with one --workdir that all see"
    )
  if importlib.util.find_spec("optuna") is None:
    raise UserError('--trials needs Optuna: pip install "resnet_jax[search]"')
  if is_address(options.workdir):
    raise UserError(
      f"--workdir {options.workdir}: a search keeps a journal that its workers append to, which a "
      "bucket cannot hold; give a directory that all of them see"
    )
  keep_to_cpu()
  import optuna

  from resnet_jax.launch.local import Local
  from resnet_jax.launch.search import Search
  from resnet_jax.launch.slots import split_machine

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  stops = Stops()
  retries = 2 if options.retries is None else options.retries
  launcher = Local(split_machine(options.parallel), retries, stops)
  search = Search(options.file, pathlib.Path(options.workdir), options.trials, rest)
  if options.dry_run:
    print(f"# {options.trials} trials; the first of a new search, before anything is known:")
    print("\n".join(launcher.lines([search.first])))
    return 0
  with search:
    with stops:
      ending = launcher.follow(search)
    print(f"\n{search.summary()}")
    failures = search.failures()
  if ending.interrupted:
    print("resnet-jax: stopped; run the same command to go on", file=sys.stderr)
    return EXIT_PREEMPTED
  return 1 if failures else 0
