"""The one place that knows of several devices: it places arrays and maps functions over them.

What is mapped is a pure function that names the axis `AXIS` in its collectives; nothing else of the
package knows how many devices there are.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

# How a function is mapped over devices, and how exact its products are: see `parallelize`.
Parallel = Literal["pmap", "shard_map"]
Precision = Literal["bfloat16", "tensorfloat32", "float32"]


def in_order(devices: Iterable[jax.Device]) -> list[jax.Device]:
  """Devices, those of a process side by side, so that each holds one stretch of a batch."""
  return sorted(devices, key=lambda device: (device.process_index, device.id))


def ordered() -> list[jax.Device]:
  """All devices, in order."""
  return in_order(jax.devices())


def replicated() -> NamedSharding:
  """The sharding of arrays that lie whole on every device."""
  return _sharding(PartitionSpec())


def _mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  return Mesh(np.array(devices or ordered()), (AXIS,))


def _sharding(spec: PartitionSpec, devices: Sequence[jax.Device] | None = None) -> NamedSharding:
  return NamedSharding(_mesh(devices), spec)


def described(tree: Any, devices: Sequence[jax.Device], is_batch: bool = False) -> Any:
  """What a mapped function is compiled for in the place of arrays: shapes, dtypes and shardings.

  Args:
    tree: Arrays, or `jax.ShapeDtypeStruct`s: as `replicate` takes them, or a device's share of what
      `shard` takes.
    devices: Where they would lie.
    is_batch: Whether every device would have a share of its own.
  """
  spec = PartitionSpec(AXIS) if is_batch else PartitionSpec()
  sharding = _sharding(spec, devices)
  more = (len(devices),) if is_batch else ()
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((*more, *leaf.shape), leaf.dtype, sharding=sharding), tree
  )


def replicate(tree: Any) -> Any:
  """Puts a tree of arrays, the same in every process, whole on every device of all processes.

  Arrays placed so are global ones, which is what makes donation work in several processes and
  checkpoints independent of the number of devices. Random keys placed so are for functions that
  `parallelize` has mapped.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, replicated())
  return jax.tree.map(_replicate_leaf, tree)


def as_global(tree: Any) -> Any:
  """The arrays that a mapped function returned, as `replicate` would have placed them.

  In one of several processes `jax.pmap` returns arrays that know of this process's devices alone,
  which cannot be saved together with the other processes.
  """
  if jax.process_count() == 1:
    return tree

  def widen(leaf: jax.Array) -> jax.Array:
    if not leaf.is_fully_addressable:
      return leaf
    parts = [shard.data for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, replicated(), parts)

  return jax.tree.map(widen, tree)


@flax.struct.dataclass
class _Key:
  """A random key on all devices of several processes: `jax.pmap` would take a key for a local one.

  Attributes:
    data: Its numbers.
    impl: What kind of key they are.
  """

  data: jax.Array
  impl: Any = flax.struct.field(pytree_node=False)


def _replicate_leaf(leaf: Any) -> Any:
  """For several processes, where `jax.device_put` refuses random keys and arrays on a device."""
  if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
    return _Key(_replicate_leaf(jax.random.key_data(leaf)), jax.random.key_impl(leaf))
  array = np.asarray(jax.device_get(leaf))
  array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
  with jax.transfer_guard("allow"):  # This is a transfer that is asked for.
    return jax.make_array_from_callback(array.shape, replicated(), lambda index: array[index])


def _opened(leaf: Any) -> Any:
  return jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if isinstance(leaf, _Key) else leaf


def shard(batch: dict[str, np.ndarray], parts: int = 1) -> dict[str, jax.Array]:
  """Spreads this process's share of a batch evenly over its devices.

  Args:
    batch: Arrays of shape (N, …) with N a multiple of `parts` times the number of local devices D.
    parts: Of how many consecutive parts each device gets its share, in order. The first part is
      that of the examples which all devices compute first, if they accumulate gradients.

  Returns:
    Global arrays (devices, N / D, …), a part on each device.
  """
  sharding = _sharding(PartitionSpec(AXIS))
  local = jax.local_device_count()

  def place(array: np.ndarray) -> jax.Array:
    size, shape = len(array) // local, array.shape[1:]
    if parts > 1:
      array = array.reshape(parts, local, size // parts, *shape).swapaxes(0, 1)
    return jax.make_array_from_process_local_data(sharding, array.reshape(local, size, *shape))

  return {name: place(array) for name, array in batch.items()}


def peak_memory() -> int:
  """Most bytes that any of this process's devices has held so far; 0 where it does not say."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max(entry.get("peak_bytes_in_use", 0) for entry in stats)


def sum_over_devices(tree: Any, axis_name: str) -> Any:
  """`jax.lax.psum` of a tree in one collective for each dtype, however many leaves it has.

  A collective of its own for each leaf costs a latency each. XLA joins them by rules of its own,
  which differ between backends and stop where one leaf is there before another.

  Args:
    tree: Arrays, of any shapes and dtypes.
    axis_name: The mapped axis.
  """
  leaves, structure = jax.tree.flatten(tree)
  summed: list[Any] = [None] * len(leaves)
  for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
    places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
    flat = jax.lax.psum(jnp.concatenate([leaves[i].ravel() for i in places]), axis_name)
    ends = itertools.accumulate(leaves[i].size for i in places)
    for i, end in zip(places, ends, strict=True):
      summed[i] = flat[end - leaves[i].size : end].reshape(leaves[i].shape)
  return jax.tree.unflatten(structure, summed)


def parallelize(
  function: Callable[..., Any],
  batch_argument: int,
  arguments: int,
  donate: bool = False,
  parallel: Parallel = "pmap",
  precision: Precision = "tensorfloat32",
  devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
  """Maps a function over devices.

  Args:
    function: Pure; uses collectives over `AXIS`. Whatever it returns must be the same on every
      device, or one device's value silently wins.
    batch_argument: Position of the argument that `shard` has spread; all others are replicated.
    arguments: Number of arguments.
    donate: Whether the memory of the first argument may be reused for the result.
    parallel: By `jax.pmap`, or by `jax.jit` of `jax.shard_map`: the same function.
    precision: Of products of float32 arrays on hardware that has faster ones: passes of bfloat16 on
      TPUs, TensorFloat-32 on GPUs (which is their fastest too).
    devices: All that there are, in their order, unless others are given: such as are only described
      and can be compiled for.

  Returns:
    A function of global arrays that returns replicated global arrays.
  """
  donated = (0,) if donate else ()

  def precise(*values: Any) -> Any:
    values = jax.tree.map(_opened, values, is_leaf=lambda node: isinstance(node, _Key))
    with jax.default_matmul_precision(precision):
      return function(*values)

  if parallel == "pmap":
    in_axes = tuple(0 if i == batch_argument else None for i in range(arguments))
    return jax.pmap(
      precise,
      axis_name=AXIS,
      in_axes=in_axes,
      out_axes=None,
      donate_argnums=donated,
      devices=devices or ordered(),
    )

  def on_each(*values: Any) -> Any:
    squeezed = list(
      values
    )  # the device's share of (devices, N / devices, …) is (1, N / devices, …)
    squeezed[batch_argument] = jax.tree.map(lambda array: array[0], values[batch_argument])
    return precise(*squeezed)

  # With `check_vma` the gradient would come out multiplied by the number of devices, and the groups
  # of batch norm be refused.
  specs = tuple(
    PartitionSpec(AXIS) if i == batch_argument else PartitionSpec() for i in range(arguments)
  )
  mapped = jax.shard_map(
    on_each, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec(), check_vma=False
  )
  return jax.jit(mapped, donate_argnums=donated)
