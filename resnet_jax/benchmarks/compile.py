"""Memory and communication of a training step on a TPU slice, found by compiling it without a TPU.

The TPU compiler gets the step that would train and a description of the slice. It reports what the
devices exchange, how much memory they need, and whether a batch fits; nothing is executed.
"""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from resnet_jax import devices
from resnet_jax.benchmarks.flax_step import with_flax_network
from resnet_jax.benchmarks.tpu_slice import Slice, describe_slice
from resnet_jax.data.blank import blank_dataset
from resnet_jax.data.dataset import Dataset
from resnet_jax.data.sources import open_dataset
from resnet_jax.models.platforms import for_platform
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.collectives import Collective, collectives_of
from resnet_jax.training.config import Config
from resnet_jax.training.loop import compile_step
from resnet_jax.training.restore import state_shapes

T = TypeVar("T")

_GIB = 2**30
# TPUs pad the sizes of arrays in memory to multiples of this.
_TILE = 8


@dataclasses.dataclass(frozen=True)
class CompileBenchmark:
  """Settings of the compile benchmark.

  Attributes:
    config: The run.
    topology: Name of the slice's topology, such as "v5e:8x8".
    search: Whether to look for the largest batch that fits.
    layouts: Whether to also compile the other layout of the network: with the equal blocks of a
      stage in a loop (`model.scan`), or without.
    peer: Whether to also compile the step with a plain Flax network, for comparison.
  """

  config: Config
  topology: str
  search: bool = True
  layouts: bool = True
  peer: bool = False


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The compiler's report on a step, for one device.

  Attributes:
    seconds: Compilation time.
    collectives: What the devices exchange.
    flops: Floating-point operations; a multiply-add counts as two.
    traffic: Bytes that its operations read and write, most of them in the device's memory.
    arguments: Bytes of the state, the constants and the batch.
    temporary: Peak bytes of temporary arrays.
    code: Bytes of the program.
  """

  seconds: float
  collectives: list[Collective]
  flops: float
  traffic: float
  arguments: int
  temporary: int
  code: int

  @property
  def memory(self) -> int:
    """Returns the total bytes."""
    return self.arguments + self.temporary + self.code


class DoesNotFitError(Exception):
  """The step needs more memory than a device has; the message gives both."""


def run_compile_benchmark(
  benchmark: CompileBenchmark, say: Callable[[str], None]
) -> dict[str, Any]:
  """Compiles the training step of a config for a described slice.

  Args:
    benchmark: What to compile.
    say: Called with each line of progress.

  Returns:
    Figures of the slice and the step, per device unless the name says otherwise:
    `collectives` (kind, count, bytes), `flops`, `bytes_accessed`, `argument_bytes`,
    `temporary_bytes`, `code_bytes`, their sum `memory_bytes`, `device_memory_bytes`, `fits`;
    `layouts`, with `fits`, `compile_seconds` and `memory_bytes` for unrolled and for scanned
    blocks; `flax`, with `fits` and the figures from `collectives` to `memory_bytes` of the step
    with a plain Flax network; `largest_batch_per_device` and `largest_batch_size`. A figure that
    was not requested or does not exist is None.

  Raises:
    UserError: The config is wrong for the slice, its sizes are not known without its data, or the
      TPU's compiler is not installed.
  """
  target = describe_slice(benchmark.topology)
  config = benchmark.config
  dataset = _dataset(config)
  compile_config = functools.partial(_compile, dataset=dataset, target=target)
  run = _build(config, dataset, target)
  peer = with_flax_network(run) if benchmark.peer else None
  share = config.batch_size // len(target.devices)
  say(
    f"{config.model.name}, batch {config.batch_size:,} on {len(target.devices)} x {target.kind} "
    f"({target.name}, {target.hosts} hosts): {share} a device, {config.parallel}"
  )
  layouts = {_layout(config): _attempt(compile_config, config)}
  if benchmark.layouts and (other := _other_layout(run)):
    layouts[_layout(other)] = _attempt(compile_config, other)
  compiled = layouts[_layout(config)]
  for line in _lines(compiled, target) if isinstance(compiled, Compiled) else ():
    say(line)
  for name, found in layouts.items():
    say(f"{name} blocks: {_summary(found)}")
  flax = None
  if peer is not None:
    found = _attempt(functools.partial(_compile_run, target=target), peer)
    say(_comparison(found, compiled))
    flax = {"fits": isinstance(found, Compiled), **_figures(found)}
  largest = None
  if benchmark.search:
    largest = _search(config, len(target.devices), compiled, target.memory, compile_config, say)
  return {
    "model": config.model.name,
    "dtype": str(config.model.overrides.get("dtype", "float32")),
    "parallel": config.parallel,
    "topology": target.name,
    "device": target.kind,
    "devices": len(target.devices),
    "hosts": target.hosts,
    "batch_size": config.batch_size,
    "batch_per_device": share,
    "fits": isinstance(compiled, Compiled),
    "device_memory_bytes": target.memory,
    **_figures(compiled),
    "layouts": {name: _layout_figures(found) for name, found in layouts.items()},
    "flax": flax,
    "largest_batch_per_device": largest,
    "largest_batch_size": None if largest is None else largest * len(target.devices),
  }


def _dataset(config: Config) -> Dataset:
  """Opens the config's data set, as an empty placeholder if its size is known."""
  return blank_dataset(config.data, config.seed) or open_dataset(config.data, config.seed)


def _build(config: Config, dataset: Dataset, target: Slice) -> Run:
  return build_run(config, dataset=dataset, devices=target.devices)


def _compile(config: Config, dataset: Dataset, target: Slice) -> Compiled:
  return _compile_run(_build(config, dataset, target), target)


def _compile_run(run: Run, target: Slice) -> Compiled:
  """Compiles the training step of a run.

  Raises:
    DoesNotFitError: It needs more memory than a device has.
  """
  split = run.dataset.splits["train"]
  one = split.fetch(np.zeros(1, np.int32), np.zeros(1, np.int32))
  share = run.config.batch_size // len(target.devices)
  batch = {
    name: jax.ShapeDtypeStruct((share, *array.shape[1:]), array.dtype)
    for name, array in one.items()
  }
  described = functools.partial(devices.described, devices=target.devices)
  begun = time.monotonic()
  with for_platform("tpu"):
    step: Any = compile_step(run)
    lowered = step.lower(
      described(state_shapes(run)),
      described(split.constants),
      described(batch, is_batch=True),
      described(run.key),
    )
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise DoesNotFitError(_excess(str(error))) from None
  seconds = time.monotonic() - begun
  memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
  return Compiled(
    seconds=seconds,
    collectives=collectives_of(compiled.as_text()),
    flops=costs["flops"],
    traffic=costs["bytes accessed"],
    arguments=memory.argument_size_in_bytes,
    temporary=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
  )


def _attempt(attempt: Callable[[T], Compiled], step: T) -> Compiled | str:
  """Returns the compiler's report on a step, or the reason why it does not fit."""
  try:
    return attempt(step)
  except DoesNotFitError as error:
    return str(error)


def _excess(message: str) -> str:
  """Extracts required and available memory from the compiler's error message."""
  for words in (
    r"temporaries \((\S+)\) exceeds available HBM \((\S+)\)",
    r"Used (\S+) of (\S+) hbm",
  ):
    if found := re.search(words, message):
      return f"it takes {found[1]} of {found[2]}"
  return message.splitlines()[0]


def _layout(config: Config) -> str:
  return "scanned" if config.model.overrides.get("scan") else "unrolled"


def _other_layout(run: Run) -> Config | None:
  """Returns the config with `model.scan` toggled; None if the network has no such field."""
  if not hasattr(run.model, "scan"):
    return None
  model = run.config.model
  overrides = dict(model.overrides) | {"scan": not model.overrides.get("scan", False)}
  return dataclasses.replace(run.config, model=dataclasses.replace(model, overrides=overrides))


def _search(
  config: Config,
  count: int,
  compiled: Compiled | str,
  memory: int,
  compile_config: Callable[[Config], Compiled],
  say: Callable[[str], None],
) -> int | None:
  """Finds the largest batch per device that fits and that `bn_group` and `accumulate` divide."""
  unit = math.lcm(_TILE, config.bn_group or 1) * config.accumulate
  share = config.batch_size // count

  def attempt(units: int) -> int | None:
    if units * unit == share:
      found = compiled
    else:
      trial = dataclasses.replace(config, batch_size=units * unit * count)
      found = _attempt(compile_config, trial)
      say(f"{units * unit} a device: {_summary(found)}")
    return found.memory if isinstance(found, Compiled) else None

  return largest_fitting(attempt, memory, max(1, share // unit)) * unit or None


def largest_fitting(attempt: Callable[[int], int | None], memory: int, first: int) -> int:
  """Finds the largest number that fits into memory; 0 if none does.

  Each attempt takes minutes, so the search assumes that memory grows about linearly, and next tries
  the number that should just fit.

  Args:
    attempt: Maps a number >= 1 to the memory it takes, or to None if it does not fit.
    memory: Available memory, in the same unit.
    first: The first number to try, >= 1.
  """
  fits: dict[int, int] = {}
  high: int | None = None  # the smallest that does not fit
  number = first
  while high is None or high - max(fits, default=0) > 1:
    taken = attempt(number)
    if taken is None:
      high = number
    else:
      fits[number] = taken
    number = _next(fits, memory, high)
  return max(fits, default=0)


def _next(fits: Mapping[int, int], memory: int, high: int | None) -> int:
  """Returns the next number to try, between those that fit and `high`, which does not."""
  low = max(fits, default=0)
  if high is not None and not low:
    return high // 2
  slope, offset = fits[low] / low, 0.0
  if len(fits) > 1:
    other = sorted(fits)[-2]
    slope = (fits[low] - fits[other]) / (low - other)
    offset = fits[low] - slope * low
  guess = int((memory - offset) / slope) if slope > 0 else 2 * low
  if fits[low] > memory / 2:  # When memory runs short, the compiler recomputes to save it.
    guess = min(guess, low + low // 4)
  if high is None:
    return max(low + 1, min(guess, 8 * low))
  if not low < guess < high:  # Already tried: memory does not grow linearly here.
    guess = (low + high) // 2
  return guess


def _lines(compiled: Compiled, target: Slice) -> Iterator[str]:
  for collective in compiled.collectives:
    yield f"a step exchanges {collective.count} x {collective.kind}, {collective.size / 1e6:.4g} MB"
  yield (
    f"a device computes {compiled.flops / 1e12:.3f} Tflop, and its operations read and write "
    f"{compiled.traffic / 1e9:.1f} GB"
  )
  yield (
    f"memory of a device: {compiled.memory / _GIB:.2f} of {target.memory / _GIB:.0f} GiB "
    f"({compiled.arguments / _GIB:.2f} state and batch, {compiled.temporary / _GIB:.2f} temporary, "
    f"{compiled.code / _GIB:.2f} program)"
  )


def _summary(found: Compiled | str) -> str:
  if isinstance(found, str):
    return f"does not fit: {found}"
  return f"{found.memory / _GIB:.2f} GiB, compiled in {found.seconds:.0f} s"


def _comparison(flax: Compiled | str, ours: Compiled | str) -> str:
  if isinstance(flax, str):
    return f"with a plain Flax network it does not fit: {flax}"
  words = (
    f"with a plain Flax network: reads and writes {flax.traffic / 1e9:.1f} GB, "
    f"{flax.temporary / _GIB:.2f} GiB temporary"
  )
  if isinstance(ours, str):
    return words
  return (
    f"{words}; ours {ours.traffic / flax.traffic:.3f} and "
    f"{ours.temporary / flax.temporary:.3f} times as much"
  )


def _layout_figures(found: Compiled | str) -> dict[str, Any]:
  if isinstance(found, str):
    return {"fits": False, "compile_seconds": None, "memory_bytes": None}
  return {
    "fits": True,
    "compile_seconds": round(found.seconds, 1),
    "memory_bytes": found.memory,
  }


def _figures(compiled: Compiled | str) -> dict[str, Any]:
  if isinstance(compiled, str):
    names = ("flops", "bytes_accessed", "argument_bytes", "temporary_bytes", "code_bytes")
    return {"collectives": None, **dict.fromkeys(names), "memory_bytes": None}
  return {
    "collectives": [
      {"kind": each.kind, "count": each.count, "bytes": each.size} for each in compiled.collectives
    ],
    "flops": compiled.flops,
    "bytes_accessed": compiled.traffic,
    "argument_bytes": compiled.arguments,
    "temporary_bytes": compiled.temporary,
    "code_bytes": compiled.code,
    "memory_bytes": compiled.memory,
  }
