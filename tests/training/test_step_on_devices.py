"""The training step is the same function on one device and on four."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("steps_on_devices.py")


@pytest.fixture(scope="module")
def run_on(tmp_path_factory):
  """Runs the script in a process of its own."""
  folder = tmp_path_factory.mktemp("steps")

  def run(devices: int, dtype: str, group: int | str, steps: int) -> dict:
    output = folder / f"{devices}-{dtype}-{group}.npz"
    # The last flag of a name counts.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    subprocess.run(
      [sys.executable, SCRIPT, dtype, str(group), str(steps), output],
      env=os.environ | {"XLA_FLAGS": flags},
      check=True,
      timeout=300,
    )
    return dict(np.load(output))

  return run


# Of 16 examples, 4 on each of four devices: a group within a device, one over two devices, one over
# all.
@pytest.mark.parametrize("group", [2, 8, "all"])
def test_four_devices_give_the_parameters_of_one_in_float64(group, run_on):
  one = run_on(1, "float64", group, 20)
  four = run_on(4, "float64", group, 20)
  assert one.keys() == four.keys()
  for name in one:
    np.testing.assert_allclose(four[name], one[name], rtol=1e-10, atol=1e-10, err_msg=name)


def test_every_gradient_has_the_size_of_one_device_s_and_first_losses_agree_in_float32(run_on):
  one = run_on(1, "float32", "all", 3)
  four = run_on(4, "float32", "all", 3)
  np.testing.assert_allclose(four["losses"][:2], one["losses"][:2], rtol=1e-5)
  gradients = [name for name in one if name.startswith("gradient")]
  assert len(gradients) > 20
  for name in gradients:
    ratio = np.vdot(four[name], one[name]) / np.vdot(one[name], one[name])
    assert ratio == pytest.approx(1, abs=1e-3), name
