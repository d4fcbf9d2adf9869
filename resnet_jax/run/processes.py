"""What the processes of a run have to agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
  """Whether this is the process that writes files."""
  return jax.process_index() == 0


def from_first(value: int) -> int:
  """The first process's value, in every process; all have to call it, in the same order."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
