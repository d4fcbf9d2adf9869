"""What devices exchange in a compiled step, read from the program that XLA made of it."""

import collections
import dataclasses
import math
import re

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
# `%name = SHAPES all-reduce(…)`; where the backend overlaps it with work, `all-reduce-start(…)`.
_INSTRUCTION = re.compile(rf"= (?P<shapes>.*?) (?P<kind>{_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"(?P<dtype>pred|[subf]f?\d+)\w*\[(?P<sizes>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """The collectives of a kind.

  Attributes:
    kind: all-reduce, all-gather, ….
    count: How many are in the program.
    size: Bytes of their results on a device, together.
  """

  kind: str
  count: int
  size: int


def collectives_of(program: str) -> list[Collective]:
  """The collectives of a compiled program, by kind.

  Args:
    program: Its text, `compiled.as_text()`.
  """
  counts: collections.Counter[str] = collections.Counter()
  sizes: collections.Counter[str] = collections.Counter()
  for line in program.splitlines():
    if found := _INSTRUCTION.search(line):
      counts[found["kind"]] += 1
      sizes[found["kind"]] += sum(map(_bytes, _ARRAY.finditer(found["shapes"])))
  return [Collective(kind, count, sizes[kind]) for kind, count in counts.items()]


def _bytes(array: re.Match[str]) -> int:
  bits = 8 if array["dtype"] == "pred" else int(re.sub(r"\D", "", array["dtype"]))
  return math.prod(int(size) for size in array["sizes"].split(",") if size) * bits // 8
