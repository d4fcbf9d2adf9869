"""Checkpoints: what is kept, what comes back, what a kill leaves."""

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
  half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (half / "state").mkdir(parents=True)
  (half / "state" / "data").write_bytes(b"\0" * 100)
  reopened = Checkpoints(tmp_path)
  assert reopened.last() == 1
  assert not half.exists()
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
