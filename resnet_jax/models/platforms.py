"""Of two computations of one function, which one a program has: that for CPUs, or the other."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax import lax

# Not `jax.make_user_context`: to make one is to have all that was traced before traced again.
_open = contextvars.ContextVar("resnet_jax_open_platform", default=False)


def by_platform(
  *arrays: jax.Array, cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]
) -> jax.Array:
  """A function that CPUs compute otherwise.

  The choice is made here, for the platform that JAX computes on by default: a program for this very
  process then has no trace of the other way, nor has its gradient. Within `open_platform` the
  program has both.

  Args:
    *arrays: The arguments.
    cpu: How CPUs compute it.
    default: How all others do: the same function, but for rounding.
  """
  if _open.get():
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)
  return (cpu if jax.default_backend() == "cpu" else default)(*arrays)


@contextlib.contextmanager
def open_platform() -> Iterator[None]:
  """Leaves the choice of `by_platform` open in what is traced within: for `jax.export`.

  JAX then chooses when it lowers the program, or, if it lowers it for several platforms, when it
  compiles it. No compiler sees both ways. What `jax.jit` has traced before, of the same shapes, it
  does not trace again: give it a function of its own.
  """
  token = _open.set(True)
  try:
    yield
  finally:
    _open.reset(token)
