"""Directories in a bucket: what one machine has written another finds, whole and in order."""

import json
import pathlib
import shutil
import threading
import time
import uuid

import pytest

pytest.importorskip("fsspec")

import fsspec

from resnet_jax.data import remote_filesystem
from resnet_jax.errors import UserError
from resnet_jax.run import digests, location, remote_lock
from resnet_jax.run.location import BucketDirectory, LocalDirectory, open_location


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(remote_filesystem, "RETRY_SECONDS", (0.01,))
  monkeypatch.setattr(remote_lock, "_SETTLE_SECONDS", 0.01)


@pytest.fixture
def address() -> str:
  return f"memory://{uuid.uuid4().hex}/runs/a"


@pytest.fixture
def on(monkeypatch, tmp_path):
  """The directory at an address as a machine of that name has it."""

  def on(machine: str, address: str, sweep: bool = False):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
    return open_location(address, sweep)

  return on


def write_checkpoint(run: pathlib.Path, step: int, content: str = "arrays") -> None:
  folder = run / "checkpoints" / str(step)
  (folder / "state").mkdir(parents=True)
  (folder / "state" / "d").write_text(content)
  digests.seal(folder)


def tear(address: str, step: int) -> None:
  """Takes the seal from a checkpoint in the bucket."""
  files = fsspec.filesystem("memory")
  files.rm_file(f"{files._strip_protocol(address)}/checkpoints/{step}/digests.json")


def names(address: str) -> set[str]:
  files = fsspec.filesystem("memory")
  root = files._strip_protocol(address)
  return {str(name).removeprefix(f"{root}/") for name in files.find(root)}


def test_what_one_machine_writes_another_finds(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    (here.path / "config.json").write_text("{}")
    (here.path / "metrics.jsonl").write_text("a line\n")
    (here.path / "metrics.jsonl.new").write_text("half")
    write_checkpoint(here.path, 5)
    (here.path / "checkpoints" / "9.tmp").mkdir()
    (here.path / "checkpoints" / "9.tmp" / "half").touch()
  whole = {"checkpoints/5/state/d", "checkpoints/5/digests.json"}
  assert names(address) == {"config.json", "metrics.jsonl", "lock", *whole}
  there = on("two", address)
  there.fetch()
  assert there.path != here.path
  assert there.path.name == "a"
  assert (there.path / "metrics.jsonl").read_text() == "a line\n"
  assert digests.damage(there.path / "checkpoints" / "5") is None
  with there.held():
    (there.path / "metrics.jsonl").write_text("a line\nand another\n")
    write_checkpoint(there.path, 7)
    for path in sorted((there.path / "checkpoints" / "5").rglob("*"), reverse=True):
      path.rmdir() if path.is_dir() else path.unlink()
  assert {name for name in names(address) if name.startswith("checkpoints/5")} == set()
  here.fetch()
  assert (here.path / "metrics.jsonl").read_text() == "a line\nand another\n"
  left = {path.name for path in (here.path / "checkpoints").iterdir()}
  assert left == {"7", "9.tmp"}  # which the next start removes, as in any directory


def test_what_a_killed_process_had_not_sent_is_kept_on_its_machine(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    (here.path / "metrics.jsonl").write_text("sent\n")
  (here.path / "metrics.jsonl").write_text("sent\nnot sent\n")  # as if killed before
  again = on("one", address)
  again.fetch()
  assert (again.path / "metrics.jsonl").read_text() == "sent\nnot sent\n"
  with again.held():
    pass
  there = on("two", address)
  there.fetch()
  assert (there.path / "metrics.jsonl").read_text() == "sent\nnot sent\n"


def test_where_another_machine_went_on_its_state_counts(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    (here.path / "metrics.jsonl").write_text("sent\n")
  (here.path / "metrics.jsonl").write_text("sent\nnot sent\n")
  write_checkpoint(here.path, 3, "not sent")
  there = on("two", address)
  there.fetch()
  with there.held():
    (there.path / "metrics.jsonl").write_text("sent\nof another\n")
  here.fetch()
  assert (here.path / "metrics.jsonl").read_text() == "sent\nof another\n"
  assert not (here.path / "checkpoints").exists()


def test_a_checkpoint_that_was_not_sent_whole_is_none(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    write_checkpoint(here.path, 5)
    write_checkpoint(here.path, 6)
  tear(address, 6)
  there = on("two", address)
  there.fetch()
  assert sorted(path.name for path in (there.path / "checkpoints").iterdir()) == ["5"]


def test_a_torn_checkpoint_does_not_spoil_the_next_one_of_its_step(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    write_checkpoint(here.path, 5)
    (here.path / "checkpoints" / "5" / "state" / "other").write_text("of the first")
    (here.path / "checkpoints" / "5" / "digests.json").unlink()
    digests.seal(here.path / "checkpoints" / "5")
  tear(address, 5)
  there = on("two", address)
  there.fetch()
  with there.held():
    assert "checkpoints/5/state/other" not in names(address)
    write_checkpoint(there.path, 5, "of the second")
  third = on("three", address)
  third.fetch()
  assert digests.damage(third.path / "checkpoints" / "5") is None
  assert (third.path / "checkpoints" / "5" / "state" / "d").read_text() == "of the second"


def test_a_checkpoint_that_was_being_sent_when_its_machine_was_killed_is_sent_again(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    write_checkpoint(here.path, 5)
    here.send()
  tear(address, 5)  # as if it had not come so far
  notes = json.loads(here._mirror._notes.read_text())
  del notes["files"]["checkpoints/5/digests.json"]
  here._mirror._notes.write_text(json.dumps(notes))
  again = on("one", address)
  again.fetch()
  with again.held():
    pass
  there = on("two", address)
  there.fetch()
  assert digests.damage(there.path / "checkpoints" / "5") is None


def test_of_a_checkpoint_what_seals_it_is_sent_last_and_deleted_first(address, on, monkeypatch):
  done = []
  here = on("one", address)
  files = here._mirror._filesystem
  put, remove = files.put_file, files.rm_file

  def put_file(path, name):
    done.append(name)
    put(path, name)

  def rm_file(name):
    done.append(name)
    remove(name)

  monkeypatch.setattr(files, "put_file", put_file)
  monkeypatch.setattr(files, "rm_file", rm_file)
  here.fetch()
  with here.held():
    write_checkpoint(here.path, 5)
    here.send()
    assert [name.rpartition("/")[2] for name in done] == ["d", "digests.json"]
    done.clear()
    (here.path / "checkpoints" / "5" / "digests.json").unlink()
    (here.path / "checkpoints" / "5" / "state" / "d").unlink()
  assert [name.rpartition("/")[2] for name in done] == ["digests.json", "d"]


def test_one_process_holds_it_and_a_dead_holder_on_another_machine_is_outlived(address, on):
  here = on("one", address)
  here.fetch()
  other = {"process": 1, "host": "elsewhere", "started": 0, "session": "x"}
  alive = threading.Event()
  mirror = here._mirror

  def beat():
    mirror.write("lock", json.dumps(other | {"beat": time.time()}).encode())

  def beat_on():
    while not alive.wait(0.02):
      beat()

  beat()
  thread = threading.Thread(target=beat_on)
  thread.start()
  try:
    held = remote_lock.held(mirror, stale_seconds=3)
    with pytest.raises(UserError, match="in use by process 1 on elsewhere"), held:
      pass
  finally:
    alive.set()
    thread.join()
  with remote_lock.held(mirror, stale_seconds=0.3) as session:
    assert json.loads(mirror.read("lock"))["session"] == session
  assert "beat" not in json.loads(mirror.read("lock"))
  here.fetch()
  again = on("one", address)
  with here.held(), pytest.raises(UserError, match="in use by process"), again.held():
    pass


def test_whoever_finds_himself_replaced_ends_at_once(address, on, monkeypatch, capsys):
  mirror = on("one", address)._mirror
  ended = threading.Event()
  monkeypatch.setattr(remote_lock.os, "_exit", lambda status: ended.set())
  with remote_lock.held(mirror, beat_seconds=0.02):
    taken = {"process": 7, "host": "h", "started": 0, "beat": 0.0, "session": "other"}
    mirror.write("lock", json.dumps(taken).encode())
    assert ended.wait(10)
  assert f"process 7 on h (since 1970-01-01 00:00:00) has taken over {address}" in (
    capsys.readouterr().err
  )


def test_who_looks_while_another_trains_sees_the_rest_later_and_spoils_nothing(address, on):
  here = on("one", address)
  here.fetch()
  there = on("two", address)
  with here.held():
    (here.path / "metrics.jsonl").write_text("1\n")
    write_checkpoint(here.path, 1)
    here.send()
    there.fetch()  # a report, or a second train, which is refused
    (here.path / "metrics.jsonl").write_text("1\n2\n")
    write_checkpoint(here.path, 2)
  with there.held():  # an evaluation, which began when that had not ended
    assert (there.path / "metrics.jsonl").read_text() == "1\n2\n"
    (there.path / "metrics.jsonl").write_text("1\n2\ntest\n")
  assert {"checkpoints/1/digests.json", "checkpoints/2/digests.json"} <= names(address)
  here.fetch()
  assert (here.path / "metrics.jsonl").read_text() == "1\n2\ntest\n"


def test_who_looks_on_the_machine_that_trains_leaves_the_copy_alone(address, on):
  here = on("one", address)
  here.fetch()
  with here.held():
    write_checkpoint(here.path, 1)
    here.send()
    shutil.rmtree(here.path / "checkpoints" / "1")  # which is not deleted in the bucket yet
    reader = on("one", address)
    reader.fetch()
    assert not (here.path / "checkpoints" / "1").exists()
  assert not any(name.startswith("checkpoints/1") for name in names(address))


@pytest.mark.parametrize("lost", ["", "checkpoints/5", "metrics.jsonl"])
def test_a_cache_that_somebody_cleaned_costs_nothing_in_the_bucket(address, on, lost):
  here = on("one", address)
  here.fetch()
  with here.held():
    (here.path / "metrics.jsonl").write_text("a line\n")
    write_checkpoint(here.path, 5)
    write_checkpoint(here.path, 6)
  before = names(address)
  gone = here.path / lost
  gone.unlink() if gone.is_file() else shutil.rmtree(gone)
  again = on("one", address)
  again.fetch()
  assert (again.path / "metrics.jsonl").read_text() == "a line\n"
  assert digests.damage(again.path / "checkpoints" / "5") is None
  with again.held():
    pass
  assert names(address) == before


def test_another_copy_on_the_same_host_is_refused_while_the_first_is_held(address, on, monkeypatch):
  monkeypatch.setattr(remote_lock, "STALE_SECONDS", 3)
  here = on("one", address)
  here.fetch()
  there = on("two", address)
  with remote_lock.held(here._mirror, beat_seconds=0.02):
    taken = remote_lock.held(there._mirror, stale_seconds=3)
    with pytest.raises(UserError, match="in use by process"), taken:
      pass


def test_who_begins_at_the_same_moment_and_writes_first_is_refused(address, on, monkeypatch):
  mirror = on("one", address)._mirror
  other = {"process": 7, "host": "h", "started": 0, "beat": time.time(), "session": "other"}
  late = lambda seconds: mirror.write("lock", json.dumps(other).encode())  # noqa: E731
  monkeypatch.setattr(remote_lock.time, "sleep", late)
  with pytest.raises(UserError, match="in use by process 7 on h"), remote_lock.held(mirror):
    pass
  assert json.loads(mirror.read("lock"))["session"] == "other"


def test_whoever_was_replaced_sends_nothing_more(address, on, monkeypatch):
  here = on("one", address)
  here.fetch()
  with pytest.raises(OSError, match="another process has taken over"), here.held():
    (here.path / "metrics.jsonl").write_text("mine")
    taken = {"process": 7, "host": "h", "started": 0, "beat": time.time(), "session": "other"}
    here._mirror.write("lock", json.dumps(taken).encode())
  assert "metrics.jsonl" not in names(address)


def test_folders_that_come_and_go_are_no_errors(address, on):
  here = on("one", address)
  here.fetch()
  ended = threading.Event()

  def churn():
    while not ended.is_set():
      write_checkpoint(here.path, 9)
      (here.path / "checkpoints" / "9").rename(here.path / "checkpoints" / "9.old.tmp")
      shutil.rmtree(here.path / "checkpoints" / "9.old.tmp")

  with here.held():
    thread = threading.Thread(target=churn)
    thread.start()
    try:
      for _ in range(200):
        here.send()
    finally:
      ended.set()
      thread.join()


def test_a_store_that_fails_for_a_while_costs_a_line_and_at_the_end_all_is_sent(
  address, on, monkeypatch, capsys
):
  monkeypatch.setattr(location, "_SECONDS", 0.02)
  here = on("one", address)
  here.fetch()
  files = here._mirror._filesystem
  pipe = files.pipe_file

  def refuse(path, content, **_):
    if not path.endswith("lock"):
      raise RuntimeError("503 try later")
    pipe(path, content)

  with here.held():
    monkeypatch.setattr(files, "pipe_file", refuse)
    (here.path / "metrics.jsonl").write_text("a line\n")
    time.sleep(0.5)
    said = capsys.readouterr().err
    assert said.count("does not answer (RuntimeError: 503 try later)") == 1
    monkeypatch.setattr(files, "pipe_file", pipe)
    time.sleep(0.3)
    assert "answers again" in capsys.readouterr().err
  assert "metrics.jsonl" in names(address)
  with pytest.raises(OSError, match=r"not all of .* could be sent .* it is kept in"), here.held():
    monkeypatch.setattr(files, "pipe_file", refuse)
    (here.path / "metrics.jsonl").write_text("a line\nanother\n")
  monkeypatch.setattr(files, "pipe_file", pipe)
  here.fetch()
  assert (here.path / "metrics.jsonl").read_text() == "a line\nanother\n"


def test_of_a_sweep_what_its_runs_record_is_fetched_and_its_own_files_are_sent(address, on):
  run = on("host", f"{address}/003")
  run.fetch()
  with run.held():
    (run.path / "config.json").write_text("{}")
    (run.path / "metrics.jsonl").write_text("a line\n")
    write_checkpoint(run.path, 5)
  sweep = on("desk", address, sweep=True)
  assert sweep.child("003") == f"{address}/003"
  sweep.fetch()
  there = {str(p.relative_to(sweep.path)) for p in sweep.path.rglob("*") if p.is_file()}
  there.remove(".mirror.json")
  assert there == {"003/config.json", "003/metrics.jsonl", "003/checkpoints/5/digests.json"}
  with sweep.held():
    (sweep.path / "sweep.json").write_text("{}")
    (sweep.path / "003" / "log.txt").write_text("stays here")
    (sweep.path / "tasks").mkdir()
    (sweep.path / "tasks" / "000.yaml").write_text("a task")
  sent = {name for name in names(address) if not name.startswith("003")}
  assert sent == {"sweep.json", "tasks/000.yaml", "lock"}
  assert "003/log.txt" not in names(address)


def test_a_local_directory_is_itself(tmp_path):
  here = open_location(str(tmp_path / "run"))
  assert isinstance(here, LocalDirectory)
  here.fetch()
  here.send()
  assert not (tmp_path / "run").exists()
  with here.held():
    assert (tmp_path / "run" / "lock").exists()
  assert here.child("x") == str(tmp_path / "run" / "x")


def test_an_address_that_cannot_be_opened_costs_a_message(monkeypatch):
  for text in ("s3://", "gs:///runs"):
    with pytest.raises(UserError, match="names no bucket"):
      open_location(text)
  with pytest.raises(UserError, match="memory://no/run is not the directory of a run"):
    open_location("memory://no/run").fetch(exists=True)
  with pytest.raises(UserError, match=r"nosuch://bucket/run cannot be opened \(ValueError"):
    open_location("nosuch://bucket/run").fetch()
  run = BucketDirectory("http://127.0.0.1:9/run") if _has_http() else None
  if run:
    with pytest.raises(UserError, match=r"does not answer .*check the address, the network"):
      run.fetch()


def _has_http() -> bool:
  try:
    import aiohttp  # noqa: F401
  except ImportError:
    return False
  return True
