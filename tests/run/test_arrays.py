"""In what a stored tree of arrays differs from one that is wanted."""

import jax
import numpy as np
import optax

from resnet_jax.run.arrays import Arrays, describe_differences, layout
from resnet_jax.training.state import TrainState

KERNEL, BIAS = ((3, 3, 16, 16), "float32"), ((16,), "float32")


def test_equal_layouts_do_not_differ():
  assert describe_differences({"a": KERNEL}, {"a": KERNEL}) is None


def test_missing_left_over_and_other_arrays_are_named():
  stored = {"params/a": KERNEL, "params/b": BIAS}
  wanted = {"params/a": ((3, 3, 16, 8), "float32"), "params/c": BIAS}
  assert describe_differences(stored, wanted) == (
    "params/a is float32[3, 3, 16, 16], not float32[3, 3, 16, 8]; params/b is left over; "
    "params/c is missing"
  )


def test_only_the_first_few_are_named():
  text = describe_differences({str(i): BIAS for i in range(100)}, {})
  assert text == "0 is left over; 1 is left over; 10 is left over; and 97 more"


def test_the_layout_on_disk_is_that_of_the_state(tmp_path):
  params = {"conv": {"kernel": np.zeros((3, 3, 1, 2), np.float32)}}
  optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.trace(0.9), optax.scale(-1.0))
  state = TrainState(np.int32(0), params, {}, optimizer.init(jax.tree.map(jax.numpy.array, params)))
  arrays = Arrays()
  arrays.save(tmp_path / "state", state)
  arrays.wait()
  assert arrays.layout(tmp_path / "state") == layout(state)
  arrays.close()
