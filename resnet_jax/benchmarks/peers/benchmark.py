"""The comparison with PyTorch and Flax: its sides and the order of their turns."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from resnet_jax import models
from resnet_jax.benchmarks.machine import cores, describe_machine
from resnet_jax.benchmarks.peers.summary import OURS, OURS_FOLDED, Round, summarize, table
from resnet_jax.benchmarks.peers.task import MODES, Mode, PeerTask
from resnet_jax.benchmarks.side import Side
from resnet_jax.errors import UserError

SIDES = {
  OURS: "ours:work",
  OURS_FOLDED: "ours:folded",  # for inference only
  "flax": "plain_flax:work",
  "torch": "plain_torch:eager",
  "torch_compile": "plain_torch:compiled",
}
NETWORKS = ("resnet20", "resnet18", "resnet50")
INSTALL = 'pip install "resnet_jax[torch]"'
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")

# Default batch sizes.
_BATCH_SIZES = {"resnet18": 32}
_CIFAR_BATCH_SIZE, _IMAGENET_BATCH_SIZE = 128, 16


@dataclasses.dataclass(frozen=True)
class PeersBenchmark:
  """Settings of the peers benchmark.

  Attributes:
    networks: Names of residual networks in the catalog.
    modes: Training, inference or both.
    sides: Keys of `SIDES`; empty for the device's default: all, but torch_compile only on GPUs.
    batch_size: Images per batch; None for 128 (CIFAR), 32 (resnet18) or 16.
    image_size: Height and width in pixels; None for the paper's.
    dtype: Dtype of the computation.
    rounds: Number of turns of every side in each of its processes.
    seconds: Length of a turn.
    processes: Number of times that every side is started.
    minutes: After so long no further side or round begins, except the first; None for no limit.
  """

  networks: Sequence[str] = NETWORKS
  modes: Sequence[Mode] = MODES
  sides: Sequence[str] = ()
  batch_size: int | None = None
  image_size: int | None = None
  dtype: Literal["float32", "bfloat16"] = "float32"
  rounds: int = 5
  seconds: float = 5.0
  processes: int = 1
  minutes: float | None = None


def run_peers_benchmark(
  benchmark: PeersBenchmark, say: Callable[[str], None] = print
) -> dict[str, Any]:
  """Measures every network and mode, the sides in turns.

  Args:
    benchmark: What to measure.
    say: Called with each line of progress and of the table.

  Returns:
    Figures that can be written as JSON; docs/performance.md explains each.

  Raises:
    UserError: A name is unknown, a network has no counterpart in the peers, or a side cannot run.
    RuntimeError: Our side failed.
  """
  tasks = [
    make_task(benchmark, network, mode)
    for network in benchmark.networks
    for mode in _modes(benchmark)
  ]
  for name in benchmark.sides:
    if name not in SIDES:
      raise UserError(f"no side is called {name!r}: there are {', '.join(SIDES)}")
  load = os.getloadavg()[0]
  sides, absent = _sides(benchmark, tasks[0])
  for line in absent:
    say(line)
  turns = _Turns(benchmark, sides, say)
  results = [summarize(task, rounds) for task in tasks if (rounds := turns.measure(task))]
  if not results:
    raise UserError(f"nothing was measured: {OURS_FOLDED} has no training; add --mode inference")
  for line in table(results):
    say(line)
  return {
    "benchmark": "peers",
    "dtype": benchmark.dtype,
    "rounds": benchmark.rounds,
    "processes": benchmark.processes,
    "seconds": benchmark.seconds,
    "results": results,
    "absent": [*absent, *turns.absent],
    "load_average_before": load,
  } | describe_machine(_PACKAGES)


def _modes(benchmark: PeersBenchmark) -> Sequence[Mode]:
  for mode in benchmark.modes:
    if mode not in MODES:
      raise UserError(f"no mode is called {mode!r}: there are {', '.join(MODES)}")
  return benchmark.modes


def make_task(benchmark: PeersBenchmark, network: str, mode: Mode) -> PeerTask:
  """Describes the work of every side on a network of the catalog.

  Raises:
    UserError: There is no such network, or the peers have no counterpart.
  """
  try:
    model = models.create(network)
  except ValueError as error:
    raise UserError(str(error)) from None
  cifar = getattr(model, "stem", None) == "cifar"
  usual = _CIFAR_BATCH_SIZE if cifar else _BATCH_SIZES.get(network, _IMAGENET_BATCH_SIZE)
  return describe_task(
    network,
    model,
    mode,
    batch_size=benchmark.batch_size or usual,
    image_size=benchmark.image_size or models.image_shape(network)[0],
    dtype=benchmark.dtype,
  )


def describe_task(
  network: str,
  model: models.Network,
  mode: Mode,
  *,
  batch_size: int,
  image_size: int,
  dtype: Literal["float32", "bfloat16"],
) -> PeerTask:
  """Describes the work of every side on a network.

  Args:
    network: Its name in the catalog.
    model: The network.
    mode: Training or inference.
    batch_size: Number of images.
    image_size: Height and width in pixels.
    dtype: Dtype of the computation.

  Raises:
    UserError: The peers have no counterpart of the network.
  """
  if not (
    isinstance(model, models.ResNet) and model.order == "original" and model.shortcut in ("A", "B")
  ):
    raise UserError(
      f"the peers have no counterpart of {network}: choose an original residual network, such as "
      f"{', '.join(NETWORKS)}"
    )
  return PeerTask(
    network=network,
    mode=mode,
    batch_size=batch_size,
    image_size=image_size,
    dtype=dtype,
    stage_sizes=model.stage_sizes,
    width=model.width,
    bottleneck=model.block == "bottleneck",
    cifar=model.stem == "cifar",
    shortcut=model.shortcut,
    num_classes=model.num_classes,
    threads=cores(),
  )


def _sides(benchmark: PeersBenchmark, task: PeerTask) -> tuple[list[str], list[str]]:
  """Returns the sides to measure, and a line for each reason why others are left out."""
  names = list(benchmark.sides)
  if not names:
    with contextlib.closing(_start("probe", "probe:work", task)) as probe:
      probe.wait_until_ready()
      platform = probe.measure(seconds=0, images=1)["platform"]
    names = [name for name in SIDES if name != "torch_compile" or platform == "gpu"]
  if importlib.util.find_spec("torch") is not None or not any("torch" in name for name in names):
    return names, []
  kept = [name for name in names if "torch" not in name]
  if not kept:
    raise UserError(f"PyTorch is not installed: {INSTALL}")
  dropped = ", ".join(name for name in names if name not in kept)
  return kept, [f"not measured: {dropped} (PyTorch is not installed: {INSTALL})"]


class _Turns:
  """The turns of all sides.

  Attributes:
    absent: A line for each side and round that was not measured.
  """

  def __init__(self, benchmark: PeersBenchmark, names: Sequence[str], say: Callable[[str], None]):
    self.absent: list[str] = []
    self._benchmark, self._names, self._say = benchmark, names, say
    self._end = time.monotonic() + 60 * (benchmark.minutes or math.inf)
    self._measured_any = False

  def measure(self, task: PeerTask) -> list[Round]:
    """Returns every round of every process: the measurements of all sides."""
    self._say(
      f"{task.network}, {task.mode}: {task.batch_size} images of {task.image_size} pixels, "
      f"{task.dtype}"
    )
    rounds: list[Round] = []
    for _ in range(self._benchmark.processes):
      rounds.extend(self._start_and_measure(task))
    return rounds

  def _start_and_measure(self, task: PeerTask) -> Iterator[Round]:
    """Starts one process for each side and yields its rounds."""
    with contextlib.ExitStack() as stack:
      sides = {}
      for name in self._names:
        if name == OURS_FOLDED and task.mode == "training":
          continue  # A network without batch norms trains differently.
        if self._is_out_of_time(f"{task.network}, {task.mode}, {name}"):
          continue
        # One at a time, because compiling is timed and uses all cores.
        side = stack.enter_context(contextlib.closing(_start(name, SIDES[name], task)))
        try:
          side.wait_until_ready()
        except RuntimeError as error:
          if name == OURS:
            raise
          self._leave_out(f"{task.network}, {task.mode}, {name} ({_last_line(error)})")
          continue
        sides[name] = side
        self._measured_any = True
      for number in range(self._benchmark.rounds if sides else 0):
        if number and self._is_out_of_time(f"{task.network}, {task.mode}, round {number + 1}"):
          return
        measured = {
          name: side.measure(seconds=self._benchmark.seconds) for name, side in sides.items()
        }
        rates = (f"{name} {one['images'] / one['seconds']:.1f}" for name, one in measured.items())
        self._say(f"  round {number + 1}: {', '.join(rates)} images/s")
        yield measured

  def _is_out_of_time(self, what: str) -> bool:
    """Returns whether it is too late to begin something, and reports it then."""
    late = self._measured_any and time.monotonic() > self._end
    if late:
      self._leave_out(f"{what} (out of time)")
    return late

  def _leave_out(self, what: str) -> None:
    self.absent.append(f"not measured: {what}")
    self._say(self.absent[-1])


def _last_line(error: Exception) -> str:
  return str(error).strip().splitlines()[-1]


def _start(name: str, opener: str, task: PeerTask) -> Side:
  # The sides share a GPU, and by default JAX would preallocate most of its memory.
  environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  return Side(name, f"{__package__}.{opener}", task, INSTALL, environment)
