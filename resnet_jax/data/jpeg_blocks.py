"""The coefficients of some blocks of a JPEG, without decoding the others; compiled by Numba.

Sections are of ITU-T T.81, the standard. The data are a string of Huffman codes, each followed by
as many bits as it says. Where a block of 8x8 coefficients ends is known only when each of its codes
was found; but of a block that is not wanted it does not matter what they say, and several are
passed at one look-up, in a fraction of the time that decoding takes. Only the means (DC) are read
of all blocks, as each is coded as a difference to the one before.

The functions are compiled without bounds checks. What a file can say is checked where it is used,
and data are followed by as many zeros as one damaged unit can pass.
"""

import numba
import numpy as np

from resnet_jax.data.compiled import compiled

# Blocks side by side whose coefficients lie side by side, to be transformed together.
GROUP = 16

# A look-up takes so many bits: its tables stay in a core's fastest cache.
_LOOKED_UP = 11
_ENTRIES = 1 << _LOOKED_UP
# An entry holds by how many bits to advance, and above them by how many coefficients; or, of a
# single code, how many of the bits are the coefficient's, and above them the zeros before it. Three
# look-ups take no more bits than a word has.
_BITS, _SIZE = 6, 4
_MOST_BITS, _WHOLE_LOOK_UPS = 21, 3
_NUMBER_LOOK_UPS = 5
_COEFFICIENTS = 64
# An advance that stands for the end of the block, and one for a code that is not in the table.
_END_OF_BLOCK = 128
_UNKNOWN = 512
# Sixteen zeros, section F.1.2.2.1.
_ZERO_RUN = 0xF0
# A difference of means takes fewer bits than this, with 8 bits a sample (table F.1).
_DC_SIZES = 12
# No picture has larger coefficients, and sums of a few of these fit in libjpeg's 16 bits.
_LARGEST = 2**11 - 1
# Words of zeros behind the data. A unit has six blocks at most, a block 64 codes of 31 bits.
_PADDING = 256

# What the functions that pass a block return instead of the bit behind it where there is damage.
_DAMAGED = np.uint64(2**64 - 1)

# Mixed with signed integers, unsigned ones become floats.
_U = np.uint64
_ONE, _TO_WORD, _IN_WORD = _U(1), _U(6), _U(63)
_TO_INDEX, _TO_TABLE = _U(64 - _LOOKED_UP), _U(_LOOKED_UP)
_TO_ADVANCE, _ADVANCED_BITS = _U(_BITS), _U((1 << _BITS) - 1)
_FILLED, _ENDED = _U(_COEFFICIENTS), _U(_END_OF_BLOCK)
_LOWEST_BITS, _HIGHEST_BITS = _U(0x0101010101010101), _U(0x8080808080808080)

# Figure A.6: where in a group of blocks each coefficient of the file's order lies.
_PLACES = GROUP * np.array(
  sorted(
    range(_COEFFICIENTS),
    key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8),
  ),
  np.uint64,
)


@numba.njit
def _without_stuffing(data, start):
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
      if length <= _LOOKED_UP and bits <= _MOST_BITS:
        first, last = code << (_LOOKED_UP - length), (code + 1) << (_LOOKED_UP - length)
        entries[first:last] = bits | (symbol & 15) << _BITS | (symbol >> 4) << _BITS + _SIZE
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
    while length and length <= _LOOKED_UP - bits and advance < _END_OF_BLOCK:
      entry = np.int64(single[(index << bits) & (_ENTRIES - 1)])
      more, size, zeros = entry & 63, entry >> _BITS & 15, entry >> _BITS + _SIZE
      further = _END_OF_BLOCK if size == 0 and zeros != 15 else zeros + 1
      # Not past the end of the block: how far an entry leads then says whether it was crossed.
      if bits + more > _MOST_BITS or advance + (further & 127) > _COEFFICIENTS:
        break
      bits += more
      advance += further
      length = lengths[(index << bits) & (_ENTRIES - 1)] if bits < _LOOKED_UP else 0
    entries[index] = bits | (advance if bits else _UNKNOWN) << _BITS


@numba.njit
def _evaluate(single, lengths, entries):
  """Fills a table with what the first code says and the number behind it, if both lie in an entry.

  A number is the highest half of an entry, below it are the zeros before it, and the bits of both;
  no bits where they are more than an entry's.
  """
  for index in range(_ENTRIES):
    entry = np.int64(single[index])
    bits, size, zeros = entry & 63, entry >> _BITS & 15, entry >> _BITS + _SIZE
    number = 0
    if lengths[index] == 0 or bits > _LOOKED_UP:
      bits = 0
    elif size:
      number = index >> (_LOOKED_UP - bits) & ((1 << size) - 1)
      number -= 0 if number >> (size - 1) else (1 << size) - 1
    elif zeros != 15:
      zeros = _END_OF_BLOCK
    entries[index] = number << 16 | zeros << 8 | bits


@numba.njit
def _find(data, table, word):
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


@numba.njit(inline="always")
def _number(word, size):
  """The signed number of the first bits of a word (section F.2.2.1): 0 has the negative half."""
  value = np.int64((word >> _ONE) >> _U(63 - size))
  # Without a branch, as either half is as likely.
  return value + (np.int64(word >> _IN_WORD) - 1) * ((1 << size) - 1)


@numba.njit
def _pass_units(data, words, at, limit, blocks, tables, single, joined, means, count):
  """Passes units without decoding more than the means of their blocks.

  Args:
    data: (bytes,) uint8, the file.
    words: (words,) uint64, the entropy-coded data.
    at: Bit at which the units begin.
    limit: Bits of the data.
    blocks: (blocks of a unit, 5) int64: component, column and row in the unit, and which tables the
      block has for its mean and the rest.
    tables: (8,) int64, where in the file tables begin.
    single: Tables as `_fill` makes them, one after another.
    joined: Tables as `_join` makes them, one after another.
    means: (components,) int64, the means of the last blocks, which are changed.
    count: How many units.

  Returns:
    The bit behind them, or `_DAMAGED`.
  """
  for _ in range(count):
    for block in range(len(blocks)):
      table = blocks[block, 3]
      word = _peek(words, at)
      length, size = _mean_code(np.int64(single[_U(table) << _TO_TABLE | (word >> _TO_INDEX)]))
      if not length:
        length, size = _find(data, tables[table], word)
      if not length or size >= _DC_SIZES:
        return _DAMAGED
      at += _U(length + size)
      means[blocks[block, 0]] += _number(word << _U(length), size)

      table = blocks[block, 4]
      base = _U(table) << _TO_TABLE
      position, step = _ONE, _U(0)
      while True:
        while position < _FILLED:
          word = _peek(words, at)
          for _ in range(_WHOLE_LOOK_UPS):
            step = _U(joined[base | (word >> _TO_INDEX)])
            at += step & _ADVANCED_BITS
            position += step >> _TO_ADVANCE
            if position >= _FILLED:
              break
            word <<= step & _ADVANCED_BITS
        if position == _FILLED or _ENDED < position < _ENDED + _FILLED:
          break
        # A code not in the table, or codes of which not all are of this block: one by one.
        at -= step & _ADVANCED_BITS
        position -= step >> _TO_ADVANCE
        step = _U(0)
        length, symbol = _find(data, tables[table], _peek(words, at))
        if not length:
          return _DAMAGED
        at += _U(length + (symbol & 15))
        if symbol & 15 == 0 and symbol != _ZERO_RUN:
          break
        position += _U((symbol >> 4) + 1)
        if position > _FILLED:
          return _DAMAGED
    if at > limit:
      return _DAMAGED
  return at


@numba.njit
def _read_units(
  data, words, at, limit, blocks, tables, single, numbers, means, steps, places, result
):
  """Reads the coefficients of units side by side; those beyond `_LARGEST` are damage.

  Args:
    data: As `_pass_units`'s, and the next six.
    words: See there.
    at: See there.
    limit: See there.
    blocks: See there.
    tables: See there.
    single: See there.
    numbers: Tables as `_evaluate` makes them, one after another.
    means: As `_pass_units`'s.
    steps: (components, 64) uint8, what coefficients are multiplied with.
    places: (units, blocks of a unit) uint64, where in the result each block begins.
    result: The coefficients of groups of blocks, flat.

  Returns:
    The bit behind them, or `_DAMAGED`.
  """
  magnitudes = 0
  for unit in range(len(places)):
    for block in range(len(blocks)):
      # The mean is read as in `_pass_units`: given arrays for each block, a function of both would
      # count references to them, which takes a twentieth of a picture's time.
      component, table = blocks[block, 0], blocks[block, 3]
      word = _peek(words, at)
      length, size = _mean_code(np.int64(single[_U(table) << _TO_TABLE | (word >> _TO_INDEX)]))
      if not length:
        length, size = _find(data, tables[table], word)
      if not length or size >= _DC_SIZES:
        return _DAMAGED
      at += _U(length + size)
      means[component] += _number(word << _U(length), size)
      begin = places[unit, block]
      value = means[component] * steps[component, 0]
      result[begin] = value
      magnitudes |= value ^ value >> 63

      table = blocks[block, 4]
      base = _U(table) << _TO_TABLE
      # Behind the coefficient that was read last.
      position = 1
      while position < _COEFFICIENTS:
        word = _peek(words, at)
        bits = 0
        for _ in range(_NUMBER_LOOK_UPS):
          entry = np.int64(numbers[base | (word >> _TO_INDEX)])
          number, zeros, bits = entry >> 16, entry >> 8 & 255, entry & 63
          if not bits:
            break
          at += _U(bits)
          position += zeros + 1
          if position > _COEFFICIENTS:
            break
          value = number * steps[component, _U(position) - _ONE]
          result[begin + _PLACES[_U(position) - _ONE]] = value
          magnitudes |= value ^ value >> 63
          if position == _COEFFICIENTS:
            break
          word <<= _U(bits)
        if bits:
          continue
        word = _peek(words, at)
        length, symbol = _find(data, tables[table], word)
        if not length:
          return _DAMAGED
        size, zeros = symbol & 15, symbol >> 4
        at += _U(length + size)
        position += _END_OF_BLOCK if size == 0 and zeros != 15 else zeros + 1
        if position <= _COEFFICIENTS:
          value = _number(word << _U(length), size) * steps[component, _U(position) - _ONE]
          result[begin + _PLACES[_U(position) - _ONE]] = value
          magnitudes |= value ^ value >> 63
      if _COEFFICIENTS < position < _END_OF_BLOCK:
        return _DAMAGED
    if at > limit or magnitudes > _LARGEST:
      return _DAMAGED
  return at


@numba.njit
def _mean_code(entry):
  """The length of the code that a table's entry holds, and the bits of the number behind it."""
  size = entry >> _BITS
  return (entry & 63) - (size & 15), size


@compiled
def decode_blocks(data, start, across, down, quantization, selectors, tables, a_row, part):
  """Decodes the coefficients of a rectangle of units (section A.2.3) of a sequential scan.

  Args:
    data: (bytes,) uint8, the file.
    start: Where the scan's data begin; this and the next five as `jpeg_header.Scan` has them.
    across: Blocks of the first component side by side in a unit.
    down: Blocks of the first component one above the other in a unit.
    quantization: (components, 64) uint8.
    selectors: (components, 2) uint8.
    tables: (8,) int64.
    a_row: Units in a row of the picture.
    part: Units before the rectangle's left edge, above its top, up to its right edge and down to
      its bottom.

  Returns:
    (groups, 64, `GROUP`) int16, coefficients times their steps. A group holds as many blocks side
    by side; of each component groups follow from left to right and from top to bottom, the last of
    a row filled up with zeros. None if there is damage before the last unit.
  """
  left, top, right, bottom = part
  single = np.empty(len(tables) * _ENTRIES, np.uint16)
  joined = np.empty(len(tables) * _ENTRIES, np.uint16)
  numbers = np.empty(len(tables) * _ENTRIES, np.int32)
  if not _fill_tables(data, tables, selectors, single, joined, numbers):
    return None
  blocks = _blocks_of_unit(across, down, selectors)
  components, units = len(selectors), right - left
  # Of each component: blocks in a row of the rectangle's units, and rows of blocks in one of units.
  wide, high = np.full(components, units), np.ones(components, np.int64)
  wide[0], high[0] = units * across, down
  groups = (wide + GROUP - 1) // GROUP
  first = np.zeros(components + 1, np.int64)
  first[1:] = np.cumsum(groups * high) * (bottom - top)
  found = np.zeros((first[components], _COEFFICIENTS, GROUP), np.int16)
  result = found.reshape(-1)

  words, bits = _without_stuffing(data, start)
  limit, at = _U(bits), _U(0)
  means = np.zeros(components, np.int64)
  places = np.empty((units, len(blocks)), np.uint64)
  passed = top * a_row + left
  for row in range(bottom - top):
    at = _pass_units(data, words, at, limit, blocks, tables, single, joined, means, passed)
    if at == _DAMAGED:
      return None
    passed = a_row - units
    for block in range(len(blocks)):
      component = blocks[block, 0]
      line = first[component] + (row * high[component] + blocks[block, 2]) * groups[component]
      for unit in range(units):
        column = unit * (wide[component] // units) + blocks[block, 1]
        group, lane = line + column // GROUP, column % GROUP
        places[unit, block] = _U(group * _COEFFICIENTS * GROUP + lane)
    at = _read_units(
      data, words, at, limit, blocks, tables, single, numbers, means, quantization, places, result
    )
    if at == _DAMAGED:
      return None
  return found


@numba.njit
def _blocks_of_unit(across, down, selectors):
  """See `_pass_units`. The first component has `across` times `down` blocks, the others one."""
  blocks = np.zeros((across * down + len(selectors) - 1, 5), np.int64)
  for i in range(len(blocks)):
    component = max(0, i + 1 - across * down)
    if not component:
      blocks[i, 1], blocks[i, 2] = i % across, i // across
    blocks[i, 0] = component
    blocks[i, 3], blocks[i, 4] = selectors[component, 0], selectors[component, 1]
  return blocks


@numba.njit
def _fill_tables(data, tables, selectors, single, joined, numbers):
  """Fills those tables that are used; whether they can be."""
  lengths = np.empty(_ENTRIES, np.uint8)
  filled = np.zeros(len(tables), np.bool_)
  for table in selectors.ravel():
    if not filled[table]:
      begin, end = table * _ENTRIES, (table + 1) * _ENTRIES
      if not _fill(data, tables[table], single[begin:end], lengths):
        return False
      if table < 4:
        symbols = data[tables[table] : tables[table] + 16].sum()
        # libjpeg refuses these tables, used or not.
        if symbols and data[tables[table] + 16 : tables[table] + 16 + symbols].max() > 15:
          return False
      else:
        _join(single[begin:end], lengths, joined[begin:end])
        _evaluate(single[begin:end], lengths, numbers[begin:end])
      filled[table] = True
  return True
