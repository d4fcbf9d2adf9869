"""One process at a time writes to a run's directory, on this host or another."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from resnet_jax.errors import UserError
from resnet_jax.run.lock import locked

# A holder on another host is a file with its name: the operating system's lock does not reach here.
HOLD = """
import pathlib, sys
from resnet_jax.run.lock import locked
with locked(pathlib.Path(sys.argv[1]), beat_seconds=0.05):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.communicate()


def elsewhere(workdir: pathlib.Path, age: float) -> None:
  """Leaves the lock that a process on another host has last beaten on so many seconds ago."""
  names = {"process": 123, "host": "elsewhere", "started": 1_700_000_000}
  (workdir / "lock").write_text(json.dumps(names | {"beat": time.time() - age}))


def test_a_directory_held_by_a_live_process_is_refused_and_the_process_named(holder, tmp_path):
  name = rf"process {holder.pid} on {socket.gethostname()} \(since 20"
  with pytest.raises(UserError, match=name), locked(tmp_path):
    pass


def test_a_killed_process_holds_nothing(holder, tmp_path, capsys):
  os.kill(holder.pid, signal.SIGKILL)
  holder.wait()
  assert json.loads((tmp_path / "lock").read_text())["process"] == holder.pid
  with locked(tmp_path):
    assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
  assert capsys.readouterr().err == ""


def test_a_holder_that_was_taken_over_writes_nothing_more(holder, tmp_path):
  holder.send_signal(signal.SIGSTOP)
  elsewhere(tmp_path, age=0)
  holder.send_signal(signal.SIGCONT)
  assert holder.wait(timeout=20) == 1
  assert json.loads((tmp_path / "lock").read_text())["host"] == "elsewhere"


def test_the_holder_s_heart_beats(holder, tmp_path):
  beats = set()
  end = time.monotonic() + 20
  while len(beats) < 3 and time.monotonic() < end:
    content = json.loads((tmp_path / "lock").read_text())
    assert content["process"] == holder.pid
    beats.add(content["beat"])
  assert len(beats) == 3


def test_the_lock_is_free_and_empty_after_use(tmp_path):
  for _ in range(2):
    with locked(tmp_path / "new"):
      assert (tmp_path / "new" / "lock").stat().st_size
    assert (tmp_path / "new" / "lock").read_bytes() == b""


def test_a_holder_on_another_host_that_beats_on_is_refused(tmp_path, capsys):
  elsewhere(tmp_path, age=1)
  ended = threading.Event()

  def beat() -> None:
    while not ended.wait(0.2):
      elsewhere(tmp_path, age=0)

  thread = threading.Thread(target=beat)
  thread.start()
  try:
    refused = pytest.raises(UserError, match=r"process 123 on elsewhere \(since 2023-11-1")
    with refused, locked(tmp_path, stale_seconds=20):
      pass
  finally:
    ended.set()
    thread.join()
  assert "waiting to see whether process 123 on elsewhere" in capsys.readouterr().err
  assert json.loads((tmp_path / "lock").read_text())["process"] == 123


@pytest.mark.parametrize(("age", "seconds", "lines"), [(0, 1, 2), (-1000, 1, 2), (61, 60, 1)])
def test_a_holder_on_another_host_that_is_still_is_taken_over(
  age, seconds, lines, tmp_path, capsys
):
  elsewhere(tmp_path, age)
  start = time.monotonic()
  with locked(tmp_path, stale_seconds=seconds):
    assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    waited = time.monotonic() - start
  assert (waited > 0.9) == (lines == 2)
  assert waited < 30
  said = capsys.readouterr().err.splitlines()
  assert len(said) == lines
  assert said[-1].startswith("process 123 on elsewhere")
  assert said[-1].endswith("is gone: taken over")


@pytest.mark.parametrize("content", ["process 5 on elsewhere", "{", "[]", '{"process": "x"}', "\0"])
def test_a_lock_that_names_nobody_is_free(content, tmp_path):
  (tmp_path / "lock").write_text(content)
  with locked(tmp_path):
    pass


def test_a_workdir_that_cannot_be_made_is_the_user_s_mistake(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file"), locked(tmp_path / "file" / "run"):
    pass
