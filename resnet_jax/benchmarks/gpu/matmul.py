"""The rate of a large matrix product, an upper bound for networks on a device."""

import time

import jax
import jax.numpy as jnp

_REPEATS, _ROUNDS = 10, 5


def matmul_flops_per_second(size: int, dtype: str = "bfloat16") -> float:
  """Times products of two random square matrices; returns the best rate of several rounds, FLOP/s.

  Args:
    size: Number of rows.
    dtype: Their dtype.
  """
  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(key, (size, size), jnp.float32).astype(dtype) for key in keys)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(a, b))
  best = float("inf")
  for _ in range(_ROUNDS):
    begun = time.perf_counter()
    jax.block_until_ready([product(a, b) for _ in range(_REPEATS)])
    best = min(best, (time.perf_counter() - begun) / _REPEATS)
  return 2 * size**3 / best
