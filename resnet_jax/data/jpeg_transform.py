"""From the coefficients of a JPEG's blocks to samples, compiled by Numba.

It is libjpeg-turbo's accurate integer transform, with all its rounding.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from resnet_jax.data.jpeg_tables import COEFFICIENTS

# Blocks side by side whose coefficients lie side by side, to be transformed together.
GROUP = 16
# Rows and columns of a block.
SIDE = 8

# Numba widens sums of 32-bit integers, for which vectors have half the lanes.
_I, _U = np.int32, np.uint64

# Constants of Loeffler, Ligtenberg and Moschytz 1989, times 2**13.
_CONSTANT_BITS, _FIRST_PASS_BITS = 13, 2
_C0_298, _C0_390, _C0_541, _C0_765 = 2446, 3196, 4433, 6270
_C0_899, _C1_175, _C1_501, _C1_847 = 7373, 9633, 12299, 15137
_C1_961, _C2_053, _C2_562, _C3_072 = 16069, 16819, 20995, 25172


def _one_pass(stride: int, shift: int) -> Callable[..., Any]:
  """A pass of the inverse cosine transform over eight numbers of each of `GROUP` blocks.

  With its constants compiled in, the loop over the blocks becomes one over vectors.

  Args:
    stride: From each of the eight to the next, in an array of (64, GROUP), flat.
    shift: Bits of fraction to round off.
  """
  half = 1 << (shift - 1)

  @numba.njit
  def transform(given, start, result, at):
    """Transforms given[start], given[start + stride], … to result[at], result[at + stride], …"""
    given = given[start : start + 7 * stride + GROUP]
    result = result[at : at + 7 * stride + GROUP]
    for i in range(GROUP):
      x0, x1 = _I(given[i]), _I(given[i + stride])
      x2, x3 = _I(given[i + 2 * stride]), _I(given[i + 3 * stride])
      x4, x5 = _I(given[i + 4 * stride]), _I(given[i + 5 * stride])
      x6, x7 = _I(given[i + 6 * stride]), _I(given[i + 7 * stride])

      z1 = _I(_I(x2 + x6) * _C0_541)
      even2, even3 = _I(z1 - x6 * _C1_847), _I(z1 + x2 * _C0_765)
      even0, even1 = _I(_I(x0 + x4) << _CONSTANT_BITS), _I(_I(x0 - x4) << _CONSTANT_BITS)
      sum0, sum3 = _I(even0 + even3 + half), _I(even0 - even3 + half)
      sum1, sum2 = _I(even1 + even2 + half), _I(even1 - even2 + half)

      z1, z2, z3, z4 = _I(x7 + x1), _I(x5 + x3), _I(x7 + x3), _I(x5 + x1)
      z5 = _I(_I(z3 + z4) * _C1_175)
      z1, z2 = _I(-z1 * _C0_899), _I(-z2 * _C2_562)
      z3, z4 = _I(z5 - z3 * _C1_961), _I(z5 - z4 * _C0_390)
      odd0, odd1 = _I(x7 * _C0_298 + z1 + z3), _I(x5 * _C2_053 + z2 + z4)
      odd2, odd3 = _I(x3 * _C3_072 + z2 + z3), _I(x1 * _C1_501 + z1 + z4)

      result[i] = _I(sum0 + odd3) >> shift
      result[i + 7 * stride] = _I(sum0 - odd3) >> shift
      result[i + stride] = _I(sum1 + odd2) >> shift
      result[i + 6 * stride] = _I(sum1 - odd2) >> shift
      result[i + 2 * stride] = _I(sum2 + odd1) >> shift
      result[i + 5 * stride] = _I(sum2 - odd1) >> shift
      result[i + 3 * stride] = _I(sum3 + odd0) >> shift
      result[i + 4 * stride] = _I(sum3 - odd0) >> shift

  return transform


_down_columns = _one_pass(SIDE * GROUP, _CONSTANT_BITS - _FIRST_PASS_BITS)
_along_rows = _one_pass(GROUP, _CONSTANT_BITS + _FIRST_PASS_BITS + 3)


@numba.njit(inline="always")
def _sample(value, shift):
  """A sample that is centred at 0, as an unsigned byte, shifted."""
  return _U(min(max(_I(value + 128), _I(0)), _I(255))) << _U(shift)


@numba.njit
def _pack(samples, at, words):
  """Packs eight rows of `GROUP` samples into `GROUP` words, the first lowest."""
  samples = samples[at : at + SIDE * GROUP]
  for i in range(GROUP):
    words[i] = (
      _sample(samples[i], 0)
      | _sample(samples[i + GROUP], 8)
      | _sample(samples[i + 2 * GROUP], 16)
      | _sample(samples[i + 3 * GROUP], 24)
      | _sample(samples[i + 4 * GROUP], 32)
      | _sample(samples[i + 5 * GROUP], 40)
      | _sample(samples[i + 6 * GROUP], 48)
      | _sample(samples[i + 7 * GROUP], 56)
    )


@numba.njit
def transform(groups, words):
  """The samples of a row of blocks.

  Args:
    groups: (groups, 64, GROUP) int16, coefficients times their steps; of each group the blocks lie
      side by side.
    words: (8, groups * GROUP) uint64, which gets the samples: eight side by side are a word.

  Returns:
    Whether libjpeg's 16 bits hold what is between the two passes of the transform, which they do
    unless the file is damaged.
  """
  beyond = _I(0)
  coefficients = groups.reshape(-1)
  block = COEFFICIENTS * GROUP
  first, second = np.empty(block, np.int32), np.empty(block, np.int32)
  for group in range(len(groups)):
    for k in range(SIDE):
      _down_columns(coefficients, group * block + k * GROUP, first, k * GROUP)
    for i in range(block):
      beyond |= _I(first[i] + 2**15) >> 16
    for k in range(SIDE):
      _along_rows(first, k * SIDE * GROUP, second, k * SIDE * GROUP)
    for row in range(SIDE):
      _pack(second, row * SIDE * GROUP, words[row, group * GROUP : (group + 1) * GROUP])
  return beyond == 0
