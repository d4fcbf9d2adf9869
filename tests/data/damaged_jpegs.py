"""Damages JPEGs in many ways, decodes parts of them, and says what came of it, as JSON.

It runs as a program, so that a crash, a hang or a greed for memory is not that of the tests:

  python tests/data/damaged_jpegs.py FIRST_SEED COUNT

The seed under way is written before it is tried, with which a crash can be repeated.
"""

import json
import resource
import sys
from collections import Counter
from collections.abc import Callable

import jpeg_segments
import numpy as np
import PIL.Image
import simplejpeg
from jpeg_parts import decode_part
from jpeg_segments import put_together, take_apart
from pictures import encode, noise, scene

from resnet_jax.data.example_source import UndecodableError
from resnet_jax.data.jpeg import decode_rows
from resnet_jax.data.jpeg_header import read_frame, read_scan
from resnet_jax.data.windows import Part

# Bytes that stand for something in a header, or end or begin a range.
TELLING = (0, 1, 2, 3, 4, 8, 0x10, 0x11, 0x22, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xD0, 0xD9, 0xFE, 0xFF)


def originals() -> list[bytes]:
  """Small files of several kinds."""
  files = []
  for i, options in enumerate({"subsampling": s, "optimize": o} for s in (0, 1, 2) for o in (0, 1)):
    files.append(encode(scene(90 + i, 110 - i, i), quality=75 + 4 * i, **options))
    files.append(encode(noise(40 + i, 130 - i, i), quality=50 + 10 * i, **options))
  files += [encode(picture(70, 60).convert("L"), quality=85) for picture in (scene, noise)]
  files.append(encode(PIL.Image.new("RGB", (200, 150), (20, 90, 200))))
  return files


def change_bytes(data: bytes, generator: np.random.Generator) -> bytes:
  changed = bytearray(data)
  for at in generator.integers(len(data), size=generator.integers(1, 6)):
    changed[at] = generator.choice(TELLING) if generator.random() < 0.5 else generator.integers(256)
  return bytes(changed)


def flip_a_bit(data: bytes, generator: np.random.Generator) -> bytes:
  changed = bytearray(data)
  changed[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
  return bytes(changed)


def cut_out(data: bytes, generator: np.random.Generator) -> bytes:
  at = generator.integers(len(data))
  return data[:at] + data[at + generator.integers(1, 40) :]


def insert(data: bytes, generator: np.random.Generator) -> bytes:
  at = generator.integers(len(data) + 1)
  return data[:at] + generator.bytes(generator.integers(1, 40)) + data[at:]


def cut_short(data: bytes, generator: np.random.Generator) -> bytes:
  return data[: generator.integers(len(data))]


def repeat(data: bytes, generator: np.random.Generator) -> bytes:
  at, length = generator.integers(len(data)), generator.integers(1, 200)
  to = generator.integers(len(data))
  return data[:to] + data[at : at + length] + data[to:]


def make_zeros_or_ones(data: bytes, generator: np.random.Generator) -> bytes:
  at, length = generator.integers(len(data)), generator.integers(1, 300)
  byte = b"\0" if generator.random() < 0.5 else b"\xff\0"
  return data[:at] + (byte * length)[:length] + data[at + length :]


DAMAGES = (change_bytes, flip_a_bit, cut_out, insert, cut_short, repeat, make_zeros_or_ones)


def damage_data(encoded: bytes, generator: np.random.Generator) -> bytes:
  """Damages the entropy-coded data alone; they still end."""
  segments, rest = take_apart(encoded)
  return put_together(segments, DAMAGES[generator.integers(7)](rest[:-2], generator) + rest[-2:])


def damage_anything(encoded: bytes, generator: np.random.Generator) -> bytes:
  return DAMAGES[generator.integers(7)](encoded, generator)


def damage_a_segment(encoded: bytes, generator: np.random.Generator) -> bytes:
  """Damages what a segment says, and makes its length fit again."""
  segments, rest = take_apart(encoded)
  for _ in range(generator.integers(1, 3)):
    at = generator.integers(len(segments))
    marker, content = segments[at]
    damage = DAMAGES[generator.integers(7)]
    # The first bytes are counts and numbers.
    begin = int(generator.integers(1, 24)) if generator.random() < 0.6 else len(content)
    if content:
      segments[at] = marker, damage(content[:begin], generator) + content[begin:]
  return put_together(segments, rest)


def shuffle_segments(encoded: bytes, generator: np.random.Generator) -> bytes:
  """Drops, doubles and swaps segments, and changes a marker."""
  segments, rest = take_apart(encoded)
  one, other = generator.integers(len(segments), size=2)
  way = generator.integers(4)
  if way == 0:
    del segments[one]
  elif way == 1:
    segments.insert(one, segments[other])
  elif way == 2:
    segments[one], segments[other] = segments[other], segments[one]
  else:
    segments[one] = (
      int(generator.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDA, 0xD8, 0xD9, 0))),
      (segments[one][1]),
    )
  return put_together(segments, rest)


def claim_a_size(encoded: bytes, generator: np.random.Generator) -> bytes:
  """Claims a height, a width, or a number of components."""
  frame = read_frame(encoded)
  assert frame is not None
  changed, at = bytearray(encoded), frame.height_at
  for i in range(2):
    if generator.random() < 0.7:
      size = int(generator.choice((0, 1, 2, 3, 4, 5, 90, 500, 2000, 60000, 65535)))
      changed[at + 2 * i : at + 2 * i + 2] = size.to_bytes(2)
  if generator.random() < 0.5:
    changed[at + 4] = generator.integers(6)
  return bytes(changed)


def change_a_table(encoded: bytes, generator: np.random.Generator) -> bytes:
  """Other counts of Huffman codes, as many in all, or other codes."""
  segments, rest = take_apart(encoded)
  for i, (marker, content) in enumerate(segments):
    if marker == jpeg_segments.DHT and len(content) >= 17:
      body = bytearray(content)
      way = generator.integers(4)
      if way == 0:
        body[1:17] = generator.permutation(np.frombuffer(content[1:17], np.uint8)).tobytes()
      elif way == 1:
        body[17:] = generator.bytes(len(body) - 17)
      elif way == 2:
        body[generator.integers(1, 17)] = generator.integers(256)
      else:
        # Codes of one length alone: the longest are never in a table that is looked up.
        length, count = generator.integers(1, 17), len(body) - 17
        body[1:17] = bytes(count % 256 if i == length else 0 for i in range(1, 17))
      segments[i] = marker, bytes(body)
  return put_together(segments, rest)


WAYS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
  damage_data,
  damage_data,
  damage_anything,
  damage_a_segment,
  shuffle_segments,
  claim_a_size,
  change_a_table,
)


def make_part(height: int, width: int, generator: np.random.Generator) -> Part:
  """Any part, or a small one, whose memory is little whatever size is claimed."""
  left, top = int(generator.integers(width)), int(generator.integers(height))
  if generator.random() < 0.3:
    return Part(0, 0, width, height)
  right = int(generator.integers(left, width)) + 1
  return Part(left, top, right, int(generator.integers(top, height)) + 1)


def peak_memory() -> int:
  """Bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def try_one(encoded: bytes, way: Callable, part: Part, counts: Counter) -> str:
  """Decodes a part of a damaged file; what went wrong, if anything, in a word."""
  frame = read_frame(encoded)
  if frame is None:
    counts["no frame"] += 1
    return ""
  counts["read_scan" if read_scan(encoded) else "no scan"] += 1
  try:
    found = decode_part(encoded, frame, part)
  except UndecodableError:
    counts["refused"] += 1
    return ""
  counts["decoded"] += 1
  if way is not damage_data:
    return ""
  try:
    left, top, right, bottom = part
    rows = decode_rows(encoded, frame, bottom, 1)[top:bottom, left:right]
  except UndecodableError:
    counts["data: decoded, where libjpeg finds damage"] += 1
    return "libjpeg finds damage"
  counts["data: decoded by both"] += 1
  return "" if np.array_equal(found, rows) else "other pixels"


def run(first_seed: int, count: int) -> dict:
  """What came of seeds; of an error or a difference the seeds are named."""
  files, counts, odd = originals(), Counter(), {}
  for encoded in files:  # So that memory for compiling does not count.
    frame = read_frame(encoded)
    assert frame is not None
    decode_part(encoded, frame, Part(0, 0, frame.width, frame.height))
    simplejpeg.decode_jpeg(encoded)
  memory = peak_memory()
  for seed in range(first_seed, first_seed + count):
    way, damaged, part = damaged_by(seed, files)
    if part is None:
      counts["no frame"] += 1
      continue
    print(seed, file=sys.stderr)
    try:
      odd_one = try_one(damaged, way, part, counts)
    except Exception as error:
      odd_one = f"{type(error).__name__}: {error}"
    if odd_one:
      odd.setdefault(odd_one, []).append(seed)
  return {"counts": counts, "odd": odd, "memory": peak_memory() - memory}


def damaged_by(seed: int, files: list[bytes]) -> tuple[Callable, bytes, Part | None]:
  """The damaged file of a seed, the way it was damaged, and a part, None if it has no frame."""
  generator = np.random.default_rng(seed)
  way = WAYS[generator.integers(len(WAYS))]
  damaged = way(files[generator.integers(len(files))], generator)
  frame = read_frame(damaged)
  return way, damaged, make_part(frame.height, frame.width, generator) if frame else None


if __name__ == "__main__":
  print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
