"""The one place that knows of several devices: it places arrays and maps functions over them.

What is mapped is a pure function that names the axis `AXIS` in its collectives; nothing else of the
package knows how many devices there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def replicated() -> NamedSharding:
  """The sharding of arrays that lie whole on every device."""
  return _sharding(PartitionSpec())


def _sharding(spec: PartitionSpec) -> NamedSharding:
  return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), spec)


def replicate(tree: Any) -> Any:
  """Puts a tree of arrays, the same in every process, whole on every device of all processes.

  Arrays placed so are global ones, which is what makes donation work in several processes and
  checkpoints independent of the number of devices.
  """
  return jax.device_put(tree, replicated())


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Spreads this process's share of a batch evenly over its devices, in order.

  Args:
    batch: Arrays of shape (N, …) with N a multiple of the number of local devices D.

  Returns:
    Global arrays (devices, N / D, …), a part on each device.
  """
  sharding = _sharding(PartitionSpec(AXIS))
  local = jax.local_device_count()
  return {
    name: jax.make_array_from_process_local_data(
      sharding, array.reshape(local, len(array) // local, *array.shape[1:])
    )
    for name, array in batch.items()
  }


def parallelize(
  function: Callable[..., Any], batch_argument: int, arguments: int, donate: bool = False
) -> Callable[..., Any]:
  """Maps a function over all devices with `jax.pmap`.

  Args:
    function: Pure; uses collectives over `AXIS`. Whatever it returns must be the same on every
      device, or one device's value silently wins.
    batch_argument: Position of the argument that `shard` has spread; all others are replicated.
    arguments: Number of arguments.
    donate: Whether the memory of the first argument may be reused for the result.

  Returns:
    A function of global arrays that returns replicated global arrays.
  """
  in_axes = tuple(0 if i == batch_argument else None for i in range(arguments))
  return jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=in_axes,
    out_axes=None,
    donate_argnums=(0,) if donate else (),
  )
