"""The samples of some blocks of a JPEG, without decoding the others; compiled by Numba.

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

from resnet_jax.data.jpeg_bits import peek, signed_number, without_stuffing
from resnet_jax.data.jpeg_tables import (
  BITS,
  COEFFICIENTS,
  END_OF_BLOCK,
  LOOKED_UP,
  find_code,
  make_tables,
)
from resnet_jax.data.jpeg_transform import GROUP, SIDE, transform

# A word has the bits of so many joined look-ups, and of so many codes with their numbers.
_JOINED_LOOK_UPS, _NUMBER_LOOK_UPS = 3, 5
# Sixteen zeros, section F.1.2.2.1.
_ZERO_RUN = 0xF0
# A difference of means takes fewer bits than this, with 8 bits a sample (table F.1).
_DC_SIZES = 12
# No picture has larger coefficients, and sums of a few of these fit in libjpeg's 16 bits.
_LARGEST = 2**11 - 1

# What the functions that pass a block return instead of the bit behind it where there is damage.
_DAMAGED = np.uint64(2**64 - 1)

# Mixed with signed integers, unsigned ones become floats.
_U = np.uint64
_ONE = _U(1)
_TO_INDEX, _TO_TABLE = _U(64 - LOOKED_UP), _U(LOOKED_UP)
_TO_ADVANCE, _ADVANCED_BITS = _U(BITS), _U((1 << BITS) - 1)
_FILLED, _ENDED = _U(COEFFICIENTS), _U(END_OF_BLOCK)

# Figure A.6: where in a group of blocks each coefficient of the file's order lies.
_PLACES = GROUP * np.array(
  sorted(
    range(COEFFICIENTS),
    key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8),
  ),
  np.uint64,
)


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
    single: The first of what `jpeg_tables.make_tables` gives.
    joined: The second.
    means: (components,) int64, the means of the last blocks, which are changed.
    count: How many units.

  Returns:
    The bit behind them, or `_DAMAGED`.
  """
  for _ in range(count):
    for block in range(len(blocks)):
      table = blocks[block, 3]
      word = peek(words, at)
      length, size = _mean_code(np.int64(single[_U(table) << _TO_TABLE | (word >> _TO_INDEX)]))
      if not length:
        length, size = find_code(data, tables[table], word)
      if not length or size >= _DC_SIZES:
        return _DAMAGED
      at += _U(length + size)
      means[blocks[block, 0]] += signed_number(word << _U(length), size)

      table = blocks[block, 4]
      base = _U(table) << _TO_TABLE
      position, step = _ONE, _U(0)
      while True:
        while position < _FILLED:
          word = peek(words, at)
          for _ in range(_JOINED_LOOK_UPS):
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
        length, symbol = find_code(data, tables[table], peek(words, at))
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
    numbers: The third of what `jpeg_tables.make_tables` gives.
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
      word = peek(words, at)
      length, size = _mean_code(np.int64(single[_U(table) << _TO_TABLE | (word >> _TO_INDEX)]))
      if not length:
        length, size = find_code(data, tables[table], word)
      if not length or size >= _DC_SIZES:
        return _DAMAGED
      at += _U(length + size)
      means[component] += signed_number(word << _U(length), size)
      begin = places[unit, block]
      value = means[component] * steps[component, 0]
      result[begin] = value
      magnitudes |= value ^ value >> 63

      table = blocks[block, 4]
      base = _U(table) << _TO_TABLE
      # Behind the coefficient that was read last.
      position = 1
      while position < COEFFICIENTS:
        word = peek(words, at)
        bits = 0
        for _ in range(_NUMBER_LOOK_UPS):
          entry = np.int64(numbers[base | (word >> _TO_INDEX)])
          number, zeros, bits = entry >> 16, entry >> 8 & 255, entry & 63
          if not bits:
            break
          at += _U(bits)
          position += zeros + 1
          if position > COEFFICIENTS:
            break
          value = number * steps[component, _U(position) - _ONE]
          result[begin + _PLACES[_U(position) - _ONE]] = value
          magnitudes |= value ^ value >> 63
          if position == COEFFICIENTS:
            break
          word <<= _U(bits)
        if bits:
          continue
        word = peek(words, at)
        length, symbol = find_code(data, tables[table], word)
        if not length:
          return _DAMAGED
        size, zeros = symbol & 15, symbol >> 4
        at += _U(length + size)
        position += END_OF_BLOCK if size == 0 and zeros != 15 else zeros + 1
        if position <= COEFFICIENTS:
          value = signed_number(word << _U(length), size) * steps[component, _U(position) - _ONE]
          result[begin + _PLACES[_U(position) - _ONE]] = value
          magnitudes |= value ^ value >> 63
      if COEFFICIENTS < position < END_OF_BLOCK:
        return _DAMAGED
    if at > limit or magnitudes > _LARGEST:
      return _DAMAGED
  return at


@numba.njit
def _mean_code(entry):
  """The length of the code that a table's entry holds, and the bits of the number behind it."""
  size = entry >> BITS
  return (entry & 63) - (size & 15), size


@numba.njit
def decode_samples(data, start, across, down, quantization, selectors, tables, a_row, part):
  """Decodes a rectangle of units (section A.2.3) of a sequential scan.

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
    Whether there is no damage before the last unit. Then three times (H, W) uint8, the samples of
    the components; a row may be longer than the rectangle. Of those that are not, no samples.
  """
  left, top, right, bottom = part
  blocks = _blocks_of_unit(across, down, selectors)
  components, units = len(selectors), right - left
  # Of each component: blocks in a row of the rectangle's units, rows of blocks in one of units, and
  # how many groups make a row. Of a row of units those of each component follow one another.
  wide, high = np.zeros(3, np.int64), np.zeros(3, np.int64)
  wide[:components], high[:components] = units, 1
  wide[0], high[0] = units * across, down
  groups = (wide + GROUP - 1) // GROUP
  first = np.zeros(4, np.int64)
  first[1:] = np.cumsum(groups * high)
  coefficients = np.empty((first[3], COEFFICIENTS, GROUP), np.int16)
  places = np.empty((units, len(blocks)), np.uint64)
  for block in range(len(blocks)):
    component = blocks[block, 0]
    line = first[component] + blocks[block, 2] * groups[component]
    for unit in range(units):
      column = unit * (wide[component] // units) + blocks[block, 1]
      group, lane = line + column // GROUP, column % GROUP
      places[unit, block] = _U(group * COEFFICIENTS * GROUP + lane)

  lines = (bottom - top) * high * SIDE
  words = (
    np.empty((lines[0], groups[0] * GROUP), np.uint64),
    np.empty((lines[1], groups[1] * GROUP), np.uint64),
    np.empty((lines[2], groups[2] * GROUP), np.uint64),
  )
  samples = words[0].view(np.uint8), words[1].view(np.uint8), words[2].view(np.uint8)
  known, single, joined, numbers = make_tables(data, tables, selectors)
  if not known:
    return False, samples
  coded, bits = without_stuffing(data, start)
  limit, at = _U(bits), _U(0)
  means = np.zeros(components, np.int64)
  passed = top * a_row + left
  for row in range(bottom - top):
    at = _pass_units(data, coded, at, limit, blocks, tables, single, joined, means, passed)
    if at == _DAMAGED:
      return False, samples
    passed = a_row - units
    coefficients[:] = 0
    at = _read_units(
      data,
      coded,
      at,
      limit,
      blocks,
      tables,
      single,
      numbers,
      means,
      quantization,
      places,
      coefficients.reshape(-1),
    )
    if at == _DAMAGED:
      return False, samples
    for component in range(components):
      for line in range(high[component]):
        begin = first[component] + line * groups[component]
        y = (row * high[component] + line) * SIDE
        if not transform(
          coefficients[begin : begin + groups[component]], words[component][y : y + SIDE]
        ):
          return False, samples
  return True, samples


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
