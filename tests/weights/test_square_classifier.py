"""Classifiers with as many classes as features: no shape tells a kernel from its transpose."""

import jax
import numpy as np
import pytest
from tiny import tiny

from resnet_jax.weights import convert, from_arrays, to_torchvision
from resnet_jax.weights.plain_arrays import flat

FEATURES = 32  # Of `tiny`'s last stage.
KERNEL = np.random.default_rng(1).normal(size=(FEATURES, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
  """The network and its variables, of which the classifier's kernel is `KERNEL`."""
  model, variables = tiny(num_classes=FEATURES)
  variables["params"]["head"]["kernel"] = KERNEL
  return model, variables


def assert_classified_by_the_kernel(model, variables):
  """The logits are those of features in rows and classes in columns."""
  images = np.random.default_rng(0).normal(size=(2, 40, 33, 3)).astype(np.float32)

  @jax.jit
  def apply(variables, images):
    logits, maps = model.apply(variables, images, train=False, return_features=True)
    return logits, maps["stage4"]

  logits, last = apply(variables, images)
  bias = np.asarray(variables["params"]["head"]["bias"], np.float64)
  expected = np.asarray(last, np.float64).mean((1, 2)) @ KERNEL + bias
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ("kernels", "of_file"),
  [
    ("HWIO", lambda kernel: kernel),
    ("OIHW", lambda kernel: kernel.T),
    ("OIHW", lambda kernel: kernel.T[:, :, None, None]),
  ],
)
def test_a_square_kernel_is_transposed_where_the_format_says_so(network, kernels, of_file):
  model, variables = network
  arrays = flat(variables)
  if kernels == "OIHW":
    arrays = {
      name: leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf for name, leaf in arrays.items()
    }
  arrays["params/head/kernel"] = of_file(KERNEL)
  found = from_arrays(model, arrays, lambda name: name, kernels=kernels)
  np.testing.assert_array_equal(found["params"]["head"]["kernel"], KERNEL)
  assert_classified_by_the_kernel(model, found)


def test_torchvision_s_rows_are_classes_in_and_out(network, tmp_path):
  model, variables = network
  arrays = to_torchvision(model, variables)
  np.testing.assert_array_equal(arrays["fc.weight"], KERNEL.T)
  np.savez(tmp_path / "net.npz", **arrays)
  fields = {"stage_sizes": (1, 1, 1, 1), "width": 4}
  found, info = convert("torchvision", tmp_path / "net.npz", "resnet18", fields)
  np.testing.assert_array_equal(found["params"]["head"]["kernel"], KERNEL)
  assert_classified_by_the_kernel(info.create(), found)
