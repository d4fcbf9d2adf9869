"""Arrays under any names as variables: every one is used, and fits; or the first few are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_equal, tiny

from resnet_jax.errors import UserError
from resnet_jax.models import create, to_scanned
from resnet_jax.weights import from_arrays
from resnet_jax.weights.plain_arrays import flat


def test_arrays_under_our_own_names_are_the_variables():
  model, variables = tiny()
  assert_equal(from_arrays(model, flat(variables), lambda name: name), variables)


def test_a_mapping_does_as_a_function_does():
  model, variables = tiny()
  leaves = flat(variables)
  names = {name: f"array{i}" for i, name in enumerate(leaves)}
  arrays = {names[name]: jnp.asarray(leaf) for name, leaf in leaves.items()}
  assert_equal(from_arrays(model, arrays, names), variables)


def test_kernels_of_pytorch_are_transposed():
  model, variables = tiny()
  arrays = {
    name: leaf.transpose(*((3, 2, 0, 1)[4 - leaf.ndim :] if leaf.ndim == 4 else (1, 0)))
    if name.endswith("kernel")
    else leaf
    for name, leaf in flat(variables).items()
  }
  assert_equal(from_arrays(model, arrays, lambda name: name, kernels="OIHW"), variables)
  one_by_one = arrays | {"params/head/kernel": arrays["params/head/kernel"][:, :, None, None]}
  assert_equal(from_arrays(model, one_by_one, lambda name: name, kernels="OIHW"), variables)


def test_scanned_networks_get_scanned_variables():
  model = create("resnet20", width=4)
  images = jnp.ones((1, 32, 32, 3))
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), images))
  found = from_arrays(model.clone(scan=True), flat(variables), lambda name: name)
  assert_equal(found, jax.device_get(to_scanned(variables)))


def test_dtypes_become_the_network_s():
  model = create("resnet20", stage_sizes=(1,), width=4, param_dtype="bfloat16")
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 8, 8, 3))))
  arrays = {name: leaf.astype(np.float64) for name, leaf in flat(variables).items()}
  assert_equal(from_arrays(model, arrays, lambda name: name), variables)


def test_what_is_missing_left_over_or_of_another_shape_is_named():
  model, variables = tiny()
  arrays = flat(variables)
  arrays["surplus"] = arrays.pop("params/head/bias")
  arrays["counter"] = np.zeros(1)
  arrays["params/stem/norm/scale"] = np.zeros(7, np.float32)
  with pytest.raises(UserError) as error:
    from_arrays(model, arrays, lambda name: name, ignored=("count*",))
  assert str(error.value) == (
    "the arrays do not fit the network: missing: params/head/bias; of another shape: "
    "params/stem/norm/scale is (7,), not (4,); left over: surplus"
  )


def test_only_the_first_few_are_named():
  model, variables = tiny()
  with pytest.raises(
    UserError, match=r"missing: params/[^,;]+, params/[^,;]+, params/[^,;]+ and \d+ more$"
  ):
    from_arrays(model, {}, lambda name: name)
  with pytest.raises(UserError, match=r"missing: params/.* and \d+ more; left over: .* more$"):
    from_arrays(model, flat(variables), {})


def test_integers_are_refused_for_they_may_be_quantised():
  model, variables = tiny()
  arrays = flat(variables) | {"params/head/kernel": np.zeros((32, 5), np.uint8)}
  with pytest.raises(UserError, match="params/head/kernel is of uint8, not of floats"):
    from_arrays(model, arrays, lambda name: name)
