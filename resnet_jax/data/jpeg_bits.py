"""The bits of a JPEG's entropy-coded data, compiled by Numba. Sections are of ITU-T T.81."""

import numba
import numpy as np

# Words of zeros behind the data. A unit has six blocks at most, a block 64 codes of 31 bits.
_PADDING = 256

# Mixed with signed integers, unsigned ones become floats.
_U = np.uint64
_ONE, _TO_WORD, _IN_WORD = _U(1), _U(6), _U(63)
_LOWEST_BITS, _HIGHEST_BITS = _U(0x0101010101010101), _U(0x8080808080808080)


@numba.njit
def without_stuffing(data, start):
  """The entropy-coded data as words, first bit highest, up to the first marker (section B.1.1.5).

  Returns:
    (words,) uint64 with zeros behind the data, and the number of bits.
  """
  words = np.empty((len(data) - start) // 8 + 2 + _PADDING, np.uint64)
  raw = data[: len(data) // 8 * 8].view(np.uint64)
  held, room, count = _U(0), 64, 0
  at, end = start, len(data)
  while at < end:
    if at % 8 == 0 and at + 8 <= end:
      word = raw[at // 8]
      if not (~word - _LOWEST_BITS) & word & _HIGHEST_BITS:  # No byte is 0xFF.
        word = _swapped(word)
        words[count] = held | (word >> _U(64 - room))
        held = (word << _ONE) << _U(room - 1)
        count += 1
        at += 8
        continue
    byte = data[at]
    at += 1
    if byte == 0xFF:
      if at >= end or data[at]:
        break
      at += 1
    room -= 8
    held |= _U(byte) << _U(room)
    if room == 0:
      words[count] = held
      held, room = _U(0), 64
      count += 1
  words[count] = held
  words[count + 1 :] = _U(0)
  return words, count * 64 + 64 - room


@numba.njit
def _swapped(word):
  """A word of little-endian bytes as big-endian ones."""
  bytes_, pairs = _U(0x00FF00FF00FF00FF), _U(0x0000FFFF0000FFFF)
  word = ((word & bytes_) << _U(8)) | ((word >> _U(8)) & bytes_)
  word = ((word & pairs) << _U(16)) | ((word >> _U(16)) & pairs)
  return (word << _U(32)) | (word >> _U(32))


@numba.njit(inline="always")
def peek(words, at):
  """The 64 bits from a bit on."""
  index, shift = at >> _TO_WORD, at & _IN_WORD
  return (words[index] << shift) | ((words[index + _ONE] >> _ONE) >> (_IN_WORD - shift))


@numba.njit(inline="always")
def signed_number(word, size):
  """The signed number of the first bits of a word (section F.2.2.1): 0 has the negative half."""
  value = np.int64((word >> _ONE) >> _U(63 - size))
  # Without a branch, as either half is as likely.
  return value + (np.int64(word >> _IN_WORD) - 1) * ((1 << size) - 1)
