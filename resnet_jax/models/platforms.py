"""Of two computations of one function, which one a program has: that for CPUs, or the other."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax import lax

# None for the platform that JAX computes on by default, and "" for any, which JAX chooses later.
# Not `jax.make_user_context`: to make one is to have all that was traced before traced again.
_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "resnet_jax_platform", default=None
)
_OPEN = ""


def platform() -> str:
  """What is traced now is for this platform: cpu, gpu or tpu; "" where that is left open."""
  chosen = _chosen.get()
  return jax.default_backend() if chosen is None else chosen


def by_platform(
  *arrays: jax.Array, cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]
) -> jax.Array:
  """A function that CPUs compute otherwise.

  The choice is made here, for the platform that JAX computes on by default: a program for this very
  process then has no trace of the other way, nor has its gradient. Within `open_platform` the
  program has both; within `for_platform` it has that platform's.

  Args:
    *arrays: The arguments.
    cpu: How CPUs compute it.
    default: How all others do: the same function, but for rounding.
  """
  name = platform()
  if name == _OPEN:
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)
  return (cpu if name == "cpu" else default)(*arrays)


@contextlib.contextmanager
def for_platform(name: str) -> Iterator[None]:
  """What is traced within is for this platform, whatever JAX computes on here.

  What `jax.jit` has traced before, of the same shapes, it does not trace again: give it a function
  of its own.
  """
  token = _chosen.set(name)
  try:
    yield
  finally:
    _chosen.reset(token)


def open_platform() -> contextlib.AbstractContextManager[None]:
  """Leaves the choice of `by_platform` open in what is traced within: for `jax.export`.

  JAX then chooses when it lowers the program, or, if it lowers it for several platforms, when it
  compiles it. No compiler sees both ways. What is said of traces in `for_platform` holds here too.
  """
  return for_platform(_OPEN)
