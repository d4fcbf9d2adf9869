"""What a run is shown depends on (seed, epoch, example) alone; no example is lost or shifted."""

import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from made_jpegs import MadeJpegs, dataset_of, picture
from stream_hashes import hashes

from resnet_jax.data import training_batches

SIZE, BATCH = 60, 8
EPOCHS_STEPS = 2 * SIZE // BATCH


@pytest.fixture(scope="module")
def two_epochs():
  """(epoch, example, hash) of two epochs, in order, read by two threads of one process."""
  return list(hashes(SIZE, BATCH, 0, EPOCHS_STEPS))


def test_every_example_is_shown_once_an_epoch_and_otherwise_in_the_next(two_epochs):
  epochs = [
    {example: digest for epoch, example, digest in two_epochs if epoch == number}
    for number in (0, 1)
  ]
  assert all(epoch.keys() == set(range(SIZE)) for epoch in epochs)
  assert len({digest for epoch in epochs for digest in epoch.values()}) == 2 * SIZE


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_threads_changes_nothing(two_epochs, threads):
  assert list(hashes(SIZE, BATCH, 0, EPOCHS_STEPS, threads)) == two_epochs


def test_two_processes_are_shown_the_parts_of_one(two_epochs):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  script = pathlib.Path(__file__).with_name("stream_hashes.py")
  processes = []
  for host in range(2):
    arguments = {"size": SIZE, "batch_size": BATCH, "first_step": 0, "steps": EPOCHS_STEPS}
    arguments |= {"coordinator": coordinator, "hosts": 2, "host": host}
    command = [sys.executable, script, json.dumps(arguments)]
    # Each of one device, not of the many of these tests.
    environment = os.environ | {"XLA_FLAGS": ""}
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
  shares = []
  for process in processes:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    shares.append([tuple(json.loads(line)) for line in output.splitlines()])
  half = BATCH // 2
  together = [
    line
    for start in range(0, EPOCHS_STEPS * half, half)
    for share in shares
    for line in share[start : start + half]
  ]
  assert together == two_epochs


def test_cut_at_any_of_fifty_places_the_stream_goes_on(two_epochs):
  generator = random.Random(0)
  split = dataset_of(MadeJpegs(SIZE)).splits["train"]
  whole = [next(stream) for stream in [training_batches(split, 0, BATCH, 0)] for _ in range(15)]
  for _ in range(50):
    step = generator.randrange(15)
    stream = training_batches(split, 0, BATCH, step)
    resumed = next(stream)
    stream.close()
    for name, array in resumed.items():
      np.testing.assert_array_equal(array, whole[step][name])
  assert list(hashes(SIZE, BATCH, 7, EPOCHS_STEPS - 7)) == two_epochs[7 * BATCH :]


def test_a_run_that_resumes_at_step_600000_begins_within_ten_seconds():
  class ImageNet(MadeJpegs):
    def read(self, i):
      return picture(i % 10), i % 1000

  split = dataset_of(ImageNet(1_281_167)).splits["train"]
  start = time.monotonic()
  stream = training_batches(split, 0, 256, 600_000)
  batch = next(stream)
  seconds = time.monotonic() - start
  stream.close()
  assert batch["epoch"][0] == 600_000 * 256 // 1_281_167 == 119
  assert seconds < 10


def fuzzed(number: int) -> bytes:
  """A picture's bytes, damaged in one of many ways."""
  generator = random.Random(number)
  encoded = bytearray(picture(number % 50))
  match number % 8:
    case 0:
      return b""
    case 1:
      return bytes(generator.randrange(256) for _ in range(generator.randrange(2000)))
    case 2:
      return bytes(encoded[: generator.randrange(len(encoded))])
    case 3:
      for _ in range(generator.randrange(1, 30)):
        encoded[generator.randrange(len(encoded))] = generator.randrange(256)
    case 4:
      at = generator.randrange(len(encoded))
      del encoded[at : at + generator.randrange(1, 200)]
    case 5:
      at = generator.randrange(len(encoded))
      encoded[at:at] = bytes(generator.randrange(256) for _ in range(generator.randrange(1, 200)))
    case 6:  # The headers: sizes, tables, scans.
      for _ in range(generator.randrange(1, 8)):
        encoded[generator.randrange(2, 620)] = generator.randrange(256)
    case 7:
      at = generator.randrange(len(encoded))
      encoded[at:] = bytes(len(encoded) - at)
  return bytes(encoded)


@pytest.mark.filterwarnings("ignore")
def test_a_thousand_damaged_files_neither_shift_the_stream_nor_go_in_as_black():
  size, damaged = 1200, range(100, 1100)
  dataset = dataset_of(MadeJpegs(size, {i: fuzzed(i) for i in damaged}))
  split = dataset.splits["train"]
  epochs, examples = np.zeros(size, np.int32), np.arange(size, dtype=np.int32)
  batch = split.fetch(epochs, examples)
  want = dataset_of(MadeJpegs(size)).splits["train"].fetch(epochs, examples)
  good = np.setdiff1d(examples, damaged)
  for name in ("image", "label", "weight", "example"):
    np.testing.assert_array_equal(batch[name][good], want[name][good])
  refused = examples[batch["weight"] == 0]
  assert split.fetch.undecodable == set(refused.tolist())
  assert 500 < len(refused) < 1000 and set(refused) <= set(damaged)
  # Empty, noise, cut short: none of them goes in as a picture.
  assert {i for i in damaged if i % 8 < 2} <= set(refused.tolist())
  whole_headers = [i for i in damaged if i % 8 == 2 and len(fuzzed(i)) > 700]
  assert set(whole_headers) <= set(refused.tolist())
  shown = batch["image"][batch["weight"] == 1]
  assert (shown.std((1, 2, 3)) > 3).all()
  for _ in range(3):
    again = split.fetch(epochs, examples)
    np.testing.assert_array_equal(again["image"], batch["image"])
