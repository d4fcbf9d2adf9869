"""Tests of resnet_jax.data.decoding_pool."""

import concurrent.futures
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


def work(pool, read, decode, calls=3, items=60):
  """Runs calls at once, as the stream does; the most threads that were at work, in their last."""
  at_work, most, lock = set(), [0] * calls, threading.Lock()

  def do(item):
    with lock:
      at_work.add(threading.get_ident())
      most[item[0]] = max(most[item[0]], len(at_work))
    with pool.reading(1):
      if read:
        time.sleep(read)
    with pool.decoding():
      decode()
    with lock:
      at_work.discard(threading.get_ident())

  with concurrent.futures.ThreadPoolExecutor(calls) as callers:
    for call in range(calls):
      callers.submit(pool.each, do, [(call, i) for i in range(items)])
  return most[-1]


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
