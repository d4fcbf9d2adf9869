"""Cutting blocks out of a JPEG's entropy-coded data without decoding them, compiled by Numba.

Sections are of ITU-T T.81, the standard. The data are a string of Huffman codes, each followed by as
many bits as it says. To know where a block of 8x8 coefficients ends, each code has to be found, but
not what it says: several are passed at a look-up, in a fraction of the time that decoding takes. The
alternating (AC) coefficients of the blocks that are kept are copied as they lie, bit by bit. Only the
mean (DC) of a block is coded as the difference to the block before it, which may be another one now:
it is coded anew.

The functions are compiled without bounds checks. What a file can say is checked where it is used, and
data are followed by as many zeros as one damaged unit can pass.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# The categories of a difference of means, of 8 bits a sample: as many bits as its magnitude takes.
DC_CATEGORIES = 12
# A mean's category is coded anew as itself, in so many bits. Not the shortest code of any picture,
# but one for every picture.
DC_CODE_BITS = 4

# A look-up takes so many bits: its table stays in a core's fastest cache.
_LOOKED_UP = 11
_ENTRIES = 1 << _LOOKED_UP
# An entry holds by how many bits to advance, and above them by how many coefficients; or, of means,
# the length of the code. Three look-ups take no more bits than a word has.
_BITS = 6
_MOST_BITS = 21
_COEFFICIENTS = 64
# An advance that stands for the end of the block, and one for a code longer than what is looked up.
_END_OF_BLOCK = 128
_LONG_CODE = 512
_ZERO_RUN = 0xF0  # Sixteen zeros, section F.1.2.2.1.
# Words of zeros behind the data. A unit has ten blocks, a block 64 codes of 31 bits.
_PADDING = 512

# Mixed with signed integers, unsigned ones become floats.
_U = np.uint64
_ONE, _TO_WORD, _IN_WORD, _TOP = _U(1), _U(6), _U(63), _U(64)
_TO_INDEX = _U(64 - _LOOKED_UP)
_TO_ADVANCE, _ADVANCED_BITS = _U(_BITS), _U((1 << _BITS) - 1)
_FILLED, _ENDED = _U(_COEFFICIENTS), _U(_END_OF_BLOCK)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles without Python's lock; kept on disk where the package or the user's cache may be."""
  try:
    return numba.njit(nogil=True, cache=True)(function)
  except RuntimeError:
    return numba.njit(nogil=True)(function)


@numba.njit
def _without_stuffing(data, start):
  """The entropy-coded data as big-endian words, up to the first marker (section B.1.1.5).

  Returns:
    (words,) uint64, and the number of bits.
  """
  words = np.empty((len(data) - start) // 8 + 2 + _PADDING, np.uint64)
  kept = words.view(np.uint8)
  at, end, count = start, len(data), 0
  while at + 32 <= end:
    stuffed = 0
    for i in range(32):
      byte = data[at + i]
      kept[count + i] = byte
      stuffed |= byte == 0xFF
    if stuffed:
      last = at + 32
      while at < last:
        byte = data[at]
        kept[count] = byte
        if byte == 0xFF:
          if at + 1 >= end or data[at + 1]:
            end = at
            break
          at += 1
        at += 1
        count += 1
    else:
      at += 32
      count += 32
  while at < end:
    byte = data[at]
    kept[count] = byte
    if byte == 0xFF:
      if at + 1 >= end or data[at + 1]:
        break
      at += 1
    at += 1
    count += 1
  kept[count : (count + 7) // 8 * 8] = 0
  _swap_bytes(words[: (count + 7) // 8])
  words[(count + 7) // 8 :] = _U(0)
  return words, count * 8


@numba.njit
def _with_stuffing(words, bits):
  """The bytes of big-endian words, filled up with ones, with a zero after each 0xFF."""
  count = (bits + 7) // 8
  if bits % 64:
    words[bits // 64] |= ~_U(0) >> _U(bits % 64)
  used = words[: (bits + 63) // 64]
  _swap_bytes(used)
  plain = used.view(np.uint8)
  stuffing = 0
  for i in range(count):
    stuffing += plain[i] == 0xFF
  stuffed = np.empty(count + stuffing, np.uint8)
  at = 0
  for i in range(count):
    stuffed[at] = plain[i]
    at += 1
    if plain[i] == 0xFF:
      stuffed[at] = 0
      at += 1
  return stuffed


@numba.njit
def _swap_bytes(words):
  """Swaps the order of the bytes of each word, in place."""
  bytes_, pairs = _U(0x00FF00FF00FF00FF), _U(0x0000FFFF0000FFFF)
  for i in range(len(words)):
    word = words[i]
    word = ((word & bytes_) << _U(8)) | ((word >> _U(8)) & bytes_)
    word = ((word & pairs) << _U(16)) | ((word >> _U(16)) & pairs)
    words[i] = (word << _U(32)) | (word >> _U(32))


@numba.njit
def _single_codes(data, table, means, entries, lengths):
  """Fills a table with what its entry's first code says (section C.2); 0 where that is longer.

  Returns:
    Whether the table has no more codes of a length than there can be.
  """
  entries[:] = 0
  lengths[:] = 0
  code, symbol_at = 0, table + 16
  for length in range(1, 17):
    for _ in range(data[table + length - 1]):
      if code >> length:
        return False
      symbol = np.int64(data[symbol_at])
      size = symbol & 15
      bits = length + size
      known = symbol < DC_CATEGORIES if means else bits <= _MOST_BITS
      if length <= _LOOKED_UP and known:
        ends = size == 0 and symbol != _ZERO_RUN
        advance = length if means else _END_OF_BLOCK if ends else (symbol >> 4) + 1
        first, last = code << (_LOOKED_UP - length), (code + 1) << (_LOOKED_UP - length)
        entries[first:last] = bits | advance << _BITS
        lengths[first:last] = length
      code += 1
      symbol_at += 1
    code <<= 1
  return True


@numba.njit
def _joined_codes(single, lengths, entries):
  """Fills a table with what all the codes say that lie whole in its entry's bits."""
  for index in range(_ENTRIES):
    bits, advance = 0, 0
    length = lengths[index]
    while length and length <= _LOOKED_UP - bits and advance < _END_OF_BLOCK:
      entry = single[(index << bits) & (_ENTRIES - 1)]
      more, further = entry & 63, entry >> _BITS
      # Not past the end of the block: how far an entry leads then says whether it was crossed.
      if bits + more > _MOST_BITS or advance + (further & 127) > _COEFFICIENTS:
        break
      bits += more
      advance += further
      length = lengths[(index << bits) & (_ENTRIES - 1)] if bits < _LOOKED_UP else 0
    entries[index] = bits | (advance if bits else _LONG_CODE) << _BITS


@numba.njit
def _find_code(data, table, word):
  """The first code of a word, of any length: its length, 0 if there is none, and its symbol."""
  code, symbol_at = 0, table + 16
  for length in range(1, 17):
    count = np.int64(data[table + length - 1])
    index = np.int64(word >> _U(64 - length)) - code
    if index < count:
      return length, np.int64(data[symbol_at + index])
    code = (code + count) << 1
    symbol_at += count
  return 0, 0


@numba.njit(inline="always")
def _peek(words, at):
  """The 64 bits from a bit on."""
  index, shift = at >> _TO_WORD, at & _IN_WORD
  return (words[index] << shift) | ((words[index + _ONE] >> _ONE) >> (_IN_WORD - shift))


@_compiled
def cut_blocks(data, start, tables, blocks, units_a_row, left, top, right, bottom):
  """Cuts a rectangle of units (section A.2.3) out of a sequential scan without restarts.

  Args:
    data: (bytes,) uint8, the file, which is not changed.
    start: Where the scan's data begin.
    tables: (8,) int64, where the counts of codes of the tables begin, of means and then of
      alternating coefficients; -1 where there is none.
    blocks: (blocks, 3) uint8 of a unit, ten at most: its component, of four at most, and which of the
      tables it has for its mean and for the rest.
    units_a_row: Units in a row of the picture.
    left: First unit in a row that is kept.
    top: First row of units that is kept.
    right: Unit behind the last one.
    bottom: Row of units behind the last one; those from it on are not looked at.

  Returns:
    (bytes,) uint8, the data of a scan of these units, in which means have codes of `DC_CODE_BITS`
    bits: the category itself. None if there is damage before the last of them.
  """
  single, lengths = np.empty(_ENTRIES, np.uint16), np.empty(_ENTRIES, np.uint8)
  entries = np.empty(8 * _ENTRIES, np.uint16)
  filled = np.zeros(8, np.bool_)
  for block in range(len(blocks)):
    for column in range(1, 3):
      table = blocks[block, column]
      if filled[table]:
        continue
      if tables[table] < 0:
        return None
      means = column == 1
      if not _single_codes(data, tables[table], means, single, lengths):
        return None
      if means:
        entries[table * _ENTRIES : (table + 1) * _ENTRIES] = single
      else:
        _joined_codes(single, lengths, entries[table * _ENTRIES : (table + 1) * _ENTRIES])
      filled[table] = True

  words, bits = _without_stuffing(data, start)
  end = _U(bits)
  units = (right - left) * (bottom - top)
  packed = np.empty(bits // 64 + 2 + units * len(blocks) * 16 // 64, np.uint64)
  held, room, count = _U(0), 64, 0
  mean, kept_mean = np.zeros(4, np.int64), np.zeros(4, np.int64)
  at = _U(0)
  for row in range(bottom):
    for unit in range(right if row == bottom - 1 else units_a_row):
      kept = row >= top and left <= unit < right
      for block in range(len(blocks)):
        component, table = blocks[block, 0], blocks[block, 1]
        word = _peek(words, at)
        entry = np.int64(entries[_U(table) << _U(_LOOKED_UP) | word >> _TO_INDEX])
        if entry:
          length = entry >> _BITS
          size = (entry & 63) - length
        else:
          length, size = _find_code(data, tables[table], word)
          if not length or size >= DC_CATEGORIES:
            return None
        at += _U(length + size)
        word <<= _U(length)
        if size:
          # Section F.2.2.1: the lower half of a category's numbers are negative.
          difference = np.int64(word >> _U(64 - size))
          mean[component] += difference - (0 if difference >> (size - 1) else (1 << size) - 1)
        begin = at
        table = blocks[block, 2]
        base = _U(table) << _U(_LOOKED_UP)
        position, found = _ONE, _U(0)
        while True:
          while position < _FILLED:
            word = _peek(words, at)
            found = _U(entries[base | word >> _TO_INDEX])
            at += found & _ADVANCED_BITS
            position += found >> _TO_ADVANCE
            if position >= _FILLED:
              break
            word <<= found & _ADVANCED_BITS
            found = _U(entries[base | word >> _TO_INDEX])
            at += found & _ADVANCED_BITS
            position += found >> _TO_ADVANCE
            if position >= _FILLED:
              break
            word <<= found & _ADVANCED_BITS
            found = _U(entries[base | word >> _TO_INDEX])
            at += found & _ADVANCED_BITS
            position += found >> _TO_ADVANCE
          if position == _FILLED or _ENDED < position < _ENDED + _FILLED:
            break
          # A long code, or codes of which not all belong to this block: again, one by one.
          at -= found & _ADVANCED_BITS
          position -= found >> _TO_ADVANCE
          length, symbol = _find_code(data, tables[table], _peek(words, at))
          if not length:
            return None
          at += _U(length + (symbol & 15))
          if symbol & 15 == 0 and symbol != _ZERO_RUN:
            position += _ENDED
          else:
            position += _U((symbol >> 4) + 1)
            if position > _FILLED:
              return None
          found = _U(0)
        if not kept:
          continue
        difference = mean[component] - kept_mean[component]
        kept_mean[component] = mean[component]
        size, magnitude = 0, abs(difference)
        while magnitude:
          magnitude >>= 1
          size += 1
        if size >= DC_CATEGORIES:
          return None
        if difference < 0:
          difference += (1 << size) - 1
        value, length = _U(size << size | difference), DC_CODE_BITS + size
        source = begin
        while True:
          if length < room:
            room -= length
            held |= value << _U(room)
          else:
            room += 64 - length
            packed[count] = held | (value >> _U(64 - room) if room < 64 else value)
            count += 1
            held = (value << _ONE) << _U(room - 1)
          if source >= at:
            break
          length = min(np.int64(at - source), 56)
          value = _peek(words, source) >> _U(64 - length)
          source += _U(length)
      if at > end:
        return None
  packed[count] = held
  return _with_stuffing(packed, count * 64 + 64 - room)
