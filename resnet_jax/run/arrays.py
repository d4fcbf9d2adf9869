"""Trees of arrays on disk, through Orbax; and in what two trees differ, in words."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax

from resnet_jax.processes import is_first

if TYPE_CHECKING:
  from orbax.checkpoint import AsyncCheckpointer

_SHOWN = 3

Layout = dict[str, tuple[tuple[int, ...], str]]


class Arrays:
  """Saves trees of replicated arrays in the background, and restores them.

  Of several processes the first one saves all. So the others need not see what it writes, until
  they restore, which they do together.

  Orbax takes a second to import, so it is imported only when the first tree is saved or restored,
  usually after training has begun.
  """

  @functools.cached_property
  def _reader(self) -> "AsyncCheckpointer":
    return _checkpointer()

  @functools.cached_property
  def _writer(self) -> "AsyncCheckpointer":
    alone = jax.process_count() > 1 and is_first()
    return _checkpointer(alone=True) if alone else self._reader

  def save(self, directory: pathlib.Path, tree: Any) -> None:
    """Begins to write a tree; returns once the arrays have been copied."""
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:
      # Of arrays that all processes share Orbax would have each write a part.
      tree = jax.tree.map(lambda leaf: jax.device_get(leaf.addressable_data(0)), tree)
    with self._renewed_on_failure():
      self._writer.save(directory, args=ocp.args.PyTreeSave(tree))

  def wait(self) -> None:
    """Waits until the tree is written; raises the error if writing it failed."""
    if "_writer" not in self.__dict__:
      return
    with self._renewed_on_failure():
      self._writer.wait_until_finished()

  def restore(self, directory: pathlib.Path, like: Any) -> Any:
    """A tree of the structure, dtypes and shardings of `like`, or the part of it that `like` has.

    Args:
      directory: Where it was saved.
      like: Arrays or `jax.ShapeDtypeStruct`s; some top-level subtrees of what was saved suffice.
    """
    import orbax.checkpoint as ocp

    like = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
      ),
      like,
    )
    arguments = ocp.checkpoint_utils.construct_restore_args(like)
    return self._reader.restore(
      directory,
      args=ocp.args.PyTreeRestore(item=like, restore_args=arguments, partial_restore=True),
    )

  def layout(self, directory: pathlib.Path) -> Layout:
    """Names, shapes and dtypes of the arrays that were saved."""
    return layout(self._reader.metadata(directory).item_metadata.tree)

  def close(self) -> None:
    """Closes Orbax's checkpointers; the next call opens new ones."""
    opened = [self.__dict__.pop(name, None) for name in ("_writer", "_reader")]
    for checkpointer in filter(None, opened):
      checkpointer.close()

  @contextlib.contextmanager
  def _renewed_on_failure(self) -> Iterator[None]:
    """Keeps further errors of a save that failed from being raised by the next one, or at the end.

    Orbax raises the first error and holds the others back.
    """
    try:
      yield
    except Exception:
      with contextlib.suppress(Exception):
        self.close()
      raise


def _checkpointer(alone: bool = False) -> "AsyncCheckpointer":
  """Creates Orbax's checkpointer, for all processes or for the first one alone."""
  import orbax.checkpoint as ocp

  options = ocp.options.MultiprocessingOptions()
  if alone:
    options = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )
  return ocp.AsyncCheckpointer(
    ocp.PyTreeCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
  )


def layout(tree: Any) -> Layout:
  """Shape and dtype of each array of a tree, by its name: "params/stage1/block1/conv1/kernel"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
    for path, leaf in leaves
  }


def describe_differences(
  stored: Mapping[str, tuple[tuple[int, ...], str]],
  wanted: Mapping[str, tuple[tuple[int, ...], str]],
) -> str | None:
  """In what arrays that are stored differ from those that are wanted: the first few, in words.

  Args:
    stored: A layout.
    wanted: Another one.

  Returns:
    A text without a full stop, or None if they do not differ.
  """
  found = []
  names = stored.keys() | wanted.keys()
  for name in sorted(names, key=lambda name: (name.split("/")[0] != "params", name)):
    if name not in stored:
      found.append(f"{name} is missing")
    elif name not in wanted:
      found.append(f"{name} is left over")
    elif stored[name] != wanted[name]:
      found.append(f"{name} is {_words(stored[name])}, not {_words(wanted[name])}")
  if not found:
    return None
  more = len(found) - _SHOWN
  return "; ".join(found[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _words(array: tuple[tuple[int, ...], str]) -> str:
  shape, dtype = array
  return f"{dtype}[{', '.join(map(str, shape))}]"
