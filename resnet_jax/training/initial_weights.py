"""The weights that a run starts from where they are another run's: which fit, which are random.

Names are those of checkpoints, where no blocks are scanned. A variable that fits a pattern of the
config's `reset` starts at random, or is left out where only the other run has it. All else has to
be on both sides, with the same shape; the dtype is the new network's.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.run.arrays import Layout, describe_differences, layout
from resnet_jax.training.parameter_names import fits, require_fits
from resnet_jax.training.weight_source import read_layout, read_weights

_PATTERNS, _SHOWN = 3, 4


@dataclasses.dataclass(frozen=True)
class InitialWeights:
  """Weights of another run, for a network that they fit.

  Attributes:
    words: Where they are from, and what starts at random.
    arrays: On the host, by name.
  """

  words: str
  arrays: Mapping[str, np.ndarray]

  def replace_in(self, variables: Any) -> Any:
    """Variables in which these stand in the place of those of their names, in the dtype there."""

    def chosen(path: Any, leaf: Any) -> Any:
      array = self.arrays.get(jax.tree_util.keystr(path, simple=True, separator="/"))
      return leaf if array is None else array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(chosen, variables)


def check_initial_weights(source: str, reset: Sequence[str], variables: Any) -> str:
  """Makes sure that weights fit a network, without reading them; collective over processes.

  Args:
    source: The config's `init_from`.
    reset: The config's `reset`.
    variables: The network's `params` and `batch_stats`, or their shapes, with no blocks scanned.

  Returns:
    Where they are from, and what starts at random.

  Raises:
    UserError: They are not there, or are damaged; or they do not fit: what differs, what to do.
  """
  where, stored = read_layout(source)
  return _words(where, _random_names(where, stored, layout(variables), reset))


def read_initial_weights(source: str, reset: Sequence[str], variables: Any) -> InitialWeights:
  """The weights that stay; arguments and errors are those of `check_initial_weights`."""
  where, arrays = read_weights(source)
  random = _random_names(where, layout(arrays), layout(variables), reset)
  kept = {name: array for name, array in arrays.items() if name not in random}
  return InitialWeights(_words(where, random), kept)


def _random_names(where: str, stored: Layout, wanted: Layout, reset: Sequence[str]) -> set[str]:
  """The network's names that are reset; raises a UserError unless all others fit."""
  plain = sorted({_plain(name) for name in stored.keys() | wanted.keys()})
  require_fits(plain, reset, "reset")
  random = _reset_names(stored, reset) | _reset_names(wanted, reset)
  if random >= {name for name in wanted if name.startswith("params/")}:
    raise UserError(
      f"reset={tuple(reset)}: every parameter fits, and nothing of {where} is left; leave out "
      "init_from and reset, or reset less"
    )
  differing = {
    name
    for name in (stored.keys() | wanted.keys()) - random
    if name not in stored or name not in wanted or stored[name][0] != wanted[name][0]
  }
  if differing:
    there, here = (_part(of, differing) for of in (stored, wanted))
    raise UserError(
      f"the weights of {where} do not fit this network: {describe_differences(there, here)}. "
      f"{_advice(set(map(_plain, differing)), plain, reset)}"
    )
  return random & wanted.keys()


def _reset_names(names: Iterable[str], reset: Sequence[str]) -> set[str]:
  """Those that fit a pattern; and the statistics of each norm all of whose parameters do."""
  params = [_plain(name) for name in _of("params", names)]
  trained = {_module(name) for name in params}
  kept = {_module(name) for name in params if not fits(name, reset)}
  found = {name for name in names if fits(_plain(name), reset)}
  statistics = _of("batch_stats", names)
  return found | {name for name in statistics if _module(_plain(name)) in trained - kept}


def _words(where: str, random: Iterable[str]) -> str:
  """What is printed; of batch norms' statistics it does not speak, which follow their norms."""
  names = sorted(map(_plain, _of("params", random)))
  if not names:
    return f"weights of {where}"
  more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
  verb = "start" if len(names) > 1 else "starts"
  return f"weights of {where}; {', '.join(names[:_SHOWN])}{more} {verb} at random"


def _advice(differing: set[str], names: Sequence[str], reset: Sequence[str]) -> str:
  """How to go on where some of the names differ: in few places, they can be reset."""
  patterns = sorted({_widest(name, differing, names) for name in differing})
  if 2 * len(differing) > len(names) or len(patterns) > _PATTERNS:
    return (
      "Start from a run of the same network, or name all that shall start at random: "
      "--config.reset 'PATTERN' 'PATTERN'"
    )
  together = " ".join(f"'{pattern}'" for pattern in (*reset, *patterns))
  return f"To start without them: --config.reset {together}"


def _widest(name: str, differing: set[str], names: Sequence[str]) -> str:
  """The shortest pattern of a name and what lies beside it that fits nothing but what differs."""
  path = name.split("/")
  for end in range(len(path)):
    pattern = "/".join([*path[:end], "*"])
    if all(other in differing for other in names if fits(other, (pattern,))):
      return pattern
  return name


def _part(of: Layout, names: set[str]) -> Layout:
  return {_plain(name): array for name, array in of.items() if name in names}


def _of(collection: str, names: Iterable[str]) -> list[str]:
  return [name for name in names if name.startswith(f"{collection}/")]


def _plain(name: str) -> str:
  """A name without its collection: what patterns and people know."""
  return name.partition("/")[2]


def _module(name: str) -> str:
  return name.rpartition("/")[0]
