"""Tests of resnet_jax.data.decoding_pool."""

import concurrent.futures
import subprocess
import sys
import threading
import time

import pytest

from resnet_jax.data.decoding_pool import DecodingPool


def test_calls_share_the_threads_in_their_order():
  pool, done, begun = DecodingPool(1, reads=0), [], threading.Event()

  def do(item):
    begun.set()
    time.sleep(1e-3)
    done.append(item)

  with concurrent.futures.ThreadPoolExecutor(2) as callers:
    first = callers.submit(pool.each, do, range(20))
    begun.wait()
    callers.submit(pool.each, do, range(20, 40)).result()
    # A call returns when its own items are done, and those of an earlier one are by then.
    assert first.done() and done == list(range(40))


def test_no_items_are_done_at_once():
  DecodingPool(1).each(pytest.fail, [])


def test_what_an_item_raises_is_raised_and_the_rest_left_out():
  pool, done = DecodingPool(1, reads=0), []

  def do(item):
    if item == 3:
      raise OSError("the disk is gone")
    done.append(item)

  with pytest.raises(OSError, match="the disk is gone"):
    pool.each(do, range(1000))
  assert done == [0, 1, 2]
  pool.each(do, [5, 6])
  assert done == [0, 1, 2, 5, 6]


def test_of_several_exceptions_the_first_is_raised():
  pool, both = DecodingPool(2), threading.Barrier(2)

  def do(item):
    both.wait(10)
    time.sleep(0.05 * item)
    raise ValueError(f"of item {item}")

  with pytest.raises(ValueError, match="of item 0"):
    pool.each(do, [0, 1])


def test_threads_that_cannot_start_are_no_reason_to_wait(monkeypatch):
  pool, done = DecodingPool(2), []

  def refuse(*_):
    raise RuntimeError("can't start new thread")

  with monkeypatch.context() as patch:
    patch.setattr(pool._executor, "submit", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
      pool.each(done.append, [1, 2, 3])
  pool.each(done.append, [4])
  assert done == [4]


def test_one_thread_is_enough_where_no_more_can_start(monkeypatch):
  pool, done, submit = DecodingPool(4), [], concurrent.futures.ThreadPoolExecutor.submit

  def refuse_more(*arguments):
    if pool._at_work:
      raise RuntimeError("can't start new thread")
    return submit(pool._executor, *arguments)

  monkeypatch.setattr(pool._executor, "submit", refuse_more)
  pool.each(done.append, range(100))
  assert sorted(done) == list(range(100))


PROGRAM = """
import sys, time
from resnet_jax.data import Split, prefetch, training_batches
from resnet_jax.data.decoding_pool import DecodingPool

pool = DecodingPool(2)

def fetch(epochs, examples):
  pool.each(lambda _: time.sleep(1e-3), examples.tolist())
  return {"example": examples}

split = Split("train", 1000, {}, fetch, None, examples_ahead=pool.size)
stream = prefetch(training_batches(split, 0, 16, 0), lambda batch: batch)
for _ in range(int(sys.argv[1])):
  next(stream)
sys.exit(3)
"""


@pytest.mark.parametrize("batches", ["0", "1", "5"])
def test_a_program_that_ends_in_the_middle_of_a_stream_ends(batches):
  command = [sys.executable, "-c", PROGRAM, batches]
  done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (3, "")


def work(pool, read, decode, calls=3, items=60):
  """Runs calls at once, as the stream does; the most threads that were at work near the end."""
  at_work, most, lock = set(), [0] * calls * items, threading.Lock()

  def do(item):
    with lock:
      at_work.add(threading.get_ident())
      most[item] = len(at_work)
    with pool.reading(1):
      if read:
        time.sleep(read)
    with pool.decoding():
      decode()
    with lock:
      at_work.discard(threading.get_ident())

  with concurrent.futures.ThreadPoolExecutor(calls) as callers:
    for call in range(calls):
      callers.submit(pool.each, do, range(call * items, (call + 1) * items))
  return max(most[-items:])


def test_as_many_threads_are_at_work_as_decode_where_nothing_is_waited_for():
  pool = DecodingPool(2)
  work(pool, 0, lambda: time.sleep(2e-3))
  assert work(pool, 0, lambda: time.sleep(2e-3)) == 2


def test_more_are_where_storage_is_waited_for():
  pool = DecodingPool(2)
  for _ in range(3):
    most = work(pool, 20e-3, lambda: time.sleep(1e-3))
  # 2 + 2 * 20 / 1, as near as sleeping is measured.
  assert 10 < most <= 50


def test_a_single_call_gets_more_and_fewer_threads_as_storage_turns_slow_and_fast():
  pool = DecodingPool(2)
  assert work(pool, 20e-3, lambda: time.sleep(1e-3), calls=1, items=400) > 10
  at_work = []

  def do(item):
    at_work.append(pool._at_work)
    with pool.reading(1):
      pass
    with pool.decoding():
      time.sleep(1e-3)

  pool.each(do, range(600))
  assert max(at_work[:100]) > 4
  assert max(at_work[-200:]) <= 3


def test_no_more_decode_at_a_time_than_there_are_cores_for():
  pool, lock, now, most = DecodingPool(2), threading.Lock(), [0], [0]

  def decode():
    with lock:
      now[0] += 1
      most[0] = max(most[0], now[0])
    time.sleep(1e-3)
    with lock:
      now[0] -= 1

  work(pool, 10e-3, decode)
  assert most == [2]


def test_a_pool_that_nothing_refers_to_ends_its_threads():
  pool = DecodingPool(2)
  started = []
  pool.each(lambda _: started.append(threading.current_thread()), range(100))
  del pool
  for thread in started:
    thread.join(10)
    assert not thread.is_alive()
