"""Look-up tables of a JPEG's Huffman codes, compiled by Numba.

Sections are of ITU-T T.81, the standard. The functions are compiled without bounds checks: they
rely on what `jpeg_header.read_scan` makes sure of.
"""

import numba
import numpy as np

# A look-up takes so many bits: its tables stay in a core's fastest cache.
LOOKED_UP = 11
_ENTRIES = 1 << LOOKED_UP
# An entry holds by how many bits to advance, and above them by how many coefficients; or, of a
# single code, how many of the bits are the coefficient's, and above them the zeros before it.
BITS, _SIZE = 6, 4
MOST_BITS = 21
COEFFICIENTS = 64
# An advance that stands for the end of the block, and one for a code that is not in the table.
END_OF_BLOCK = 128
_UNKNOWN = 512


@numba.njit
def make_tables(data, tables, selectors):
  """Makes look-up tables of those tables that are used.

  Args:
    data: (bytes,) uint8, the file.
    tables: (8,) int64, where in the file Huffman tables begin; see `jpeg_header.Scan`.
    selectors: (components, 2) uint8, which of them a component has.

  Returns:
    Whether the tables are such as libjpeg takes. Then (8 * 2**`LOOKED_UP`,) uint16, of each table
    what `_fill` makes of it, (the same,) uint16 what `_join` does, and int32 what `_evaluate` does:
    the last two of those for alternating coefficients alone.
  """
  single = np.empty(len(tables) * _ENTRIES, np.uint16)
  joined = np.empty(len(tables) * _ENTRIES, np.uint16)
  numbers = np.empty(len(tables) * _ENTRIES, np.int32)
  lengths = np.empty(_ENTRIES, np.uint8)
  filled = np.zeros(len(tables), np.bool_)
  for table in selectors.ravel():
    if not filled[table]:
      begin, end = table * _ENTRIES, (table + 1) * _ENTRIES
      if not _fill(data, tables[table], single[begin:end], lengths):
        return False, single, joined, numbers
      if table < 4:
        symbols = data[tables[table] : tables[table] + 16].sum()
        # libjpeg refuses these tables, used or not.
        if symbols and data[tables[table] + 16 : tables[table] + 16 + symbols].max() > 15:
          return False, single, joined, numbers
      else:
        _join(single[begin:end], lengths, joined[begin:end])
        _evaluate(single[begin:end], lengths, numbers[begin:end])
      filled[table] = True
  return True, single, joined, numbers


@numba.njit
def _fill(data, table, entries, lengths):
  """Fills a table with what its entry's first code says (section C.2); 0 where it is too long.

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
      bits = length + (symbol & 15)
      if length <= LOOKED_UP and bits <= MOST_BITS:
        first, last = code << (LOOKED_UP - length), (code + 1) << (LOOKED_UP - length)
        entries[first:last] = bits | (symbol & 15) << BITS | (symbol >> 4) << BITS + _SIZE
        lengths[first:last] = length
      code += 1
      symbol_at += 1
    code <<= 1
  return True


@numba.njit
def _join(single, lengths, entries):
  """Fills a table with what all the codes say that lie whole in an entry's bits."""
  for index in range(_ENTRIES):
    bits, advance = 0, 0
    length = lengths[index]
    while length and length <= LOOKED_UP - bits and advance < END_OF_BLOCK:
      entry = np.int64(single[(index << bits) & (_ENTRIES - 1)])
      more, size, zeros = entry & 63, entry >> BITS & 15, entry >> BITS + _SIZE
      further = END_OF_BLOCK if size == 0 and zeros != 15 else zeros + 1
      # Not past the end of the block: how far an entry leads then says whether it was crossed.
      if bits + more > MOST_BITS or advance + (further & 127) > COEFFICIENTS:
        break
      bits += more
      advance += further
      length = lengths[(index << bits) & (_ENTRIES - 1)] if bits < LOOKED_UP else 0
    entries[index] = bits | (advance if bits else _UNKNOWN) << BITS


@numba.njit
def _evaluate(single, lengths, entries):
  """Fills a table with what the first code says and the number behind it, if both lie in an entry.

  A number is the highest half of an entry, below it are the zeros before it, and the bits of both;
  no bits where they are more than an entry's.
  """
  for index in range(_ENTRIES):
    entry = np.int64(single[index])
    bits, size, zeros = entry & 63, entry >> BITS & 15, entry >> BITS + _SIZE
    number = 0
    if lengths[index] == 0 or bits > LOOKED_UP:
      bits = 0
    elif size:
      number = index >> (LOOKED_UP - bits) & ((1 << size) - 1)
      number -= 0 if number >> (size - 1) else (1 << size) - 1
    elif zeros != 15:
      zeros = END_OF_BLOCK
    entries[index] = number << 16 | zeros << 8 | bits


@numba.njit
def find_code(data, table, word):
  """The first code of a word, of any length: its length, 0 if there is none, and its symbol."""
  code, symbol_at = 0, table + 16
  for length in range(1, 17):
    count = np.int64(data[table + length - 1])
    index = np.int64(word >> np.uint64(64 - length)) - code
    if index < count:
      return length, np.int64(data[symbol_at + index])
    code = (code + count) << 1
    symbol_at += count
  return 0, 0
