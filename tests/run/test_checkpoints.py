"""Checkpoints: what is kept, what comes back, what a kill leaves, what damage is found."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import devices
from resnet_jax.errors import UserError
from resnet_jax.run.checkpoints import Checkpoints


def tree(value: float):
  return devices.replicate(
    {"params": np.full((3, 2), value, np.float32), "step": np.int32(value), "stats": {}}
  )


def save(checkpoints: Checkpoints, step: int, accuracy: float | None) -> None:
  metrics = None if accuracy is None else {"accuracy": accuracy, "loss": 1.0}
  checkpoints.save(step, tree(step), {"position": step * 8, "window": {"loss": 0.1}}, metrics)


def test_what_is_saved_comes_back_bit_for_bit_on_all_devices(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  value = devices.replicate({"x": np.float32([1 / 3, np.pi]), "n": np.int32(7), "none": {}})
  checkpoints.save(5, value, {"position": 2**40, "window": {"loss": 1 / 3}}, None)
  checkpoints.close()
  state, rest = Checkpoints(tmp_path).restore(5, value)
  assert rest == {"position": 2**40, "window": {"loss": 1 / 3}}
  np.testing.assert_array_equal(state["x"], value["x"], strict=True)
  assert state["n"].dtype == jnp.int32
  assert state["n"] == 7
  assert state["none"] == {}
  assert len(state["x"].sharding.device_set) == jax.device_count()


def test_the_last_ones_and_the_best_are_kept(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.8), (6, None)):
    save(checkpoints, step, accuracy)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 5, 6]
  assert (checkpoints.last(), checkpoints.best()) == (6, 2)
  checkpoints.close()
  reopened = Checkpoints(tmp_path, read_only=True)
  assert (reopened.steps(), reopened.best()) == ([2, 5, 6], 2)


def test_of_equally_good_ones_the_later_is_the_best(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  for step, accuracy in ((1, 0.9), (2, 0.9), (3, 0.1)):
    save(checkpoints, step, accuracy)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3]
  assert checkpoints.best() == 2


def test_what_was_never_finished_is_not_there(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 1, 0.5)
  checkpoints.close()
  folder = tmp_path / "checkpoints"
  for name in ("2.tmp", "0.old.tmp", "kept.tmp"):
    shutil.copytree(folder / "1", folder / name)
  assert Checkpoints(tmp_path, read_only=True).steps() == [1]
  assert len(list(folder.iterdir())) == 4
  reopened = Checkpoints(tmp_path)
  assert reopened.last() == 1
  assert {path.name for path in folder.iterdir()} == {"1", "kept.tmp"}
  save(reopened, 2, 0.6)
  reopened.close()
  state, _ = Checkpoints(tmp_path).restore(2, tree(0))
  assert state["step"] == 2


def test_saving_takes_a_copy_before_the_buffers_are_donated(tmp_path):
  add_one = devices.parallelize(
    lambda x, batch: jax.tree.map(
      lambda leaf: leaf + batch["one"].sum().astype(leaf.dtype) * 0 + 1, x
    ),
    batch_argument=1,
    arguments=2,
    donate=True,
  )
  batch = devices.shard({"one": np.ones(jax.device_count(), np.float32)})
  state = devices.replicate({str(i): np.zeros((256, 1024), np.float32) for i in range(20)})
  checkpoints = Checkpoints(tmp_path, keep=10)
  for step in range(1, 6):
    state = add_one(state, batch)
    checkpoints.save(step * 3, state, {}, None)
    for _ in range(2):
      state = add_one(state, batch)
  checkpoints.wait()
  for step in range(1, 6):
    restored, _ = checkpoints.restore(step * 3, state)
    for leaf in restored.values():
      np.testing.assert_array_equal(leaf, np.float32(step * 3 - 2))


def test_a_step_that_is_not_there_is_the_user_s_mistake(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 4, None)
  checkpoints.wait()
  with pytest.raises(UserError, match=r"step 3; there are \[4\]"):
    checkpoints.restore(3, tree(0))
  assert checkpoints.best() is None


def flip(path: pathlib.Path) -> None:
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-1])


def add(path: pathlib.Path) -> None:
  path.with_name("more").write_text("")


DAMAGES = {"flipped": flip, "truncated": truncate, "missing": pathlib.Path.unlink, "extra": add}


def files_of(checkpoint: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in checkpoint.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_before_anything_is_read(damage, tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  for step in (1, 2):
    save(checkpoints, step, 0.5)
  checkpoints.wait()
  two = tmp_path / "checkpoints" / "2"
  shutil.copytree(two, tmp_path / "copy")
  monkeypatch.setattr(checkpoints, "_arrays", None)
  assert {path.name for path in files_of(two)} >= {"run.json", "metrics.json", "digests.json"}
  for file in files_of(two):
    DAMAGES[damage](file)
    with pytest.raises(UserError, match=r"2 is damaged \(.*: .*\); whole: 1"):
      checkpoints.restore(2, tree(0))
    shutil.rmtree(two)
    shutil.copytree(tmp_path / "copy", two)


def test_the_message_names_the_file_that_is_damaged(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 1, None)
  checkpoints.wait()
  flip(tmp_path / "checkpoints" / "1" / "state" / "_METADATA")
  with pytest.raises(UserError, match=r"state/_METADATA: not the bits that were written"):
    checkpoints.restore(1, tree(0))
  with pytest.raises(UserError, match=r"state/_METADATA"):
    checkpoints.metadata(1)


def test_the_newest_whole_one_is_restored_and_damaged_ones_are_kept_aside(tmp_path, capsys):
  checkpoints = Checkpoints(tmp_path, keep=3)
  for step in (1, 2, 3):
    save(checkpoints, step, None)
  checkpoints.wait()
  folder = tmp_path / "checkpoints"
  flip(folder / "3" / "run.json")
  truncate(folder / "2" / "run.json")
  damaged = [path.read_bytes() for path in files_of(folder / "3")]
  step, state, run = checkpoints.restore_newest(tree(0))
  assert (step, state["step"], run["position"]) == (1, 1, 8)
  assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged", "3.damaged"]
  assert [path.read_bytes() for path in files_of(folder / "3.damaged")] == damaged
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == (
    "checkpoint of step 3 is damaged (run.json: not the bits that were written): moved to "
    "checkpoints/3.damaged; going on from step 1"
  )
  assert len(lines) == 2
  # The step is reached, and damaged, again.
  save(checkpoints, 3, None)
  checkpoints.wait()
  flip(folder / "3" / "run.json")
  assert checkpoints.restore_newest(tree(0))[0] == 1
  assert (folder / "3.damaged2").exists()


def test_where_none_is_whole_nothing_is_moved(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.restore_newest(tree(0)) is None
  for step in (1, 2):
    save(checkpoints, step, None)
  checkpoints.wait()
  for step in ("1", "2"):
    flip(tmp_path / "checkpoints" / step / "run.json")
  with pytest.raises(UserError, match=r"is whole: step 2 \(run.json.*step 1.*another --workdir"):
    checkpoints.restore_newest(tree(0))
  assert checkpoints.steps() == [1, 2]


def test_one_whose_metrics_are_damaged_is_neither_deleted_nor_passed_over_in_silence(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  save(checkpoints, 1, 0.9)
  checkpoints.wait()
  flip(tmp_path / "checkpoints" / "1" / "metrics.json")
  for step in (2, 3):
    save(checkpoints, step, 0.5)
  checkpoints.wait()
  assert checkpoints.steps() == [1, 3]
  with pytest.raises(UserError, match=r"checkpoints/1 is damaged \(metrics.json"):
    checkpoints.best()


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("accuracy", 3), ("other", None)])
def test_the_best_is_that_of_the_metric_and_lower_is_better_for_a_loss(metric, best, tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1, keep_best=2, metric=metric)
  for step, loss, accuracy in ((1, 0.5, 0.1), (2, 0.1, 0.4), (3, 0.3, 0.5), (4, 0.9, 0.2)):
    checkpoints.save(step, tree(step), {}, {"accuracy": accuracy, "loss": loss})
  checkpoints.wait()
  assert checkpoints.steps() == ([4] if best is None else [2, 3, 4])
  assert checkpoints.best() == best


def test_a_step_that_is_there_already_stays_if_it_is_whole_and_is_replaced_if_not(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 1, 0.5)
  checkpoints.save(1, tree(7), {}, None)
  checkpoints.wait()
  assert checkpoints.restore(1, tree(0))[0]["step"] == 1
  assert checkpoints.best() == 1
  flip(tmp_path / "checkpoints" / "1" / "run.json")
  checkpoints.save(1, tree(7), {}, None)
  checkpoints.wait()
  assert checkpoints.restore(1, tree(0))[0]["step"] == 7
  assert (tmp_path / "checkpoints" / "1.damaged").exists()


def test_some_subtrees_are_restored_without_the_others(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 3, None)
  checkpoints.wait()
  like = {"params": tree(0)["params"], "stats": {}}
  restored = checkpoints.restore_variables(3, like)
  assert restored.keys() == like.keys()
  np.testing.assert_array_equal(restored["params"], np.full((3, 2), 3, np.float32), strict=True)
  assert restored["params"].sharding.is_equivalent_to(like["params"].sharding, 2)
  assert checkpoints.metadata(3) == {"params": ((3, 2), "float32"), "step": ((), "int32")}


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"params": np.zeros((3, 4), np.float32)}, r"params is float32\[3, 2\], not float32\[3, 4\]"),
    ({"params": np.zeros((3, 2), np.float16)}, r"params is float32\[3, 2\], not float16\[3, 2\]"),
    ({"params": {"a": np.zeros(3)}}, r"params is left over; params/a is missing"),
  ],
)
def test_a_checkpoint_of_another_network_is_the_user_s_mistake(change, words, tmp_path):
  checkpoints = Checkpoints(tmp_path)
  save(checkpoints, 3, None)
  checkpoints.wait()
  for restore in (checkpoints.restore, checkpoints.restore_variables):
    with pytest.raises(UserError, match=rf"3 is of another network or optimizer: {words}"):
      restore(3, tree(0) | change)


def test_what_is_given_may_change_once_save_has_returned(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  run, metrics = {"window": [1.0]}, {"accuracy": 0.5}
  checkpoints.save(1, tree(1), run, metrics)
  run["window"].append(2.0)
  metrics["accuracy"] = 0.0
  checkpoints.wait()
  assert checkpoints.restore(1, tree(0))[1] == {"window": [1.0]}
  metrics = json.loads((tmp_path / "checkpoints" / "1" / "metrics.json").read_text())
  assert metrics == {"accuracy": 0.5}


SAVE_FOR_EVER = """
import pathlib, sys
import numpy as np
from resnet_jax.run.checkpoints import Checkpoints
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), keep=1)
state = {str(i): np.arange(20000, dtype=np.float32) for i in range(20)}
for step in range(1, 10**6):
  checkpoints.save(step, state | {"step": np.int32(step)}, {"step": step}, {"accuracy": 1 / step})
"""


def test_a_kill_at_any_moment_leaves_whole_checkpoints_only(tmp_path):
  like = {str(i): np.zeros(20000, np.float32) for i in range(20)} | {"step": np.int32(0)}
  for wait in (0.0, 0.05, 0.15):
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], env=os.environ)
    while not (tmp_path / "checkpoints" / "2").exists():
      assert process.poll() is None
      time.sleep(0.001)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.steps()
    for step in checkpoints.steps():
      state, run = checkpoints.restore(step, like)
      assert state["step"] == run["step"] == step
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints")
