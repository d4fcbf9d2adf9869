"""The training step is the same function on one device and on four."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("steps_on_devices.py")


@pytest.fixture
def run_on(tmp_path):
  """Runs the script in a process of its own, which trains with each of some batch-norm groups."""

  def run(devices: int, dtype: str, steps: int, *groups: int | str) -> list[dict]:
    folder = tmp_path / str(devices)
    folder.mkdir()
    # The last flag of a name counts.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    subprocess.run(
      [sys.executable, SCRIPT, dtype, str(steps), folder, *map(str, groups)],
      env=os.environ | {"XLA_FLAGS": flags},
      check=True,
      timeout=300,
    )
    return [dict(np.load(folder / f"{group}.npz")) for group in groups]

  return run


def test_four_devices_give_the_parameters_of_one_in_float64(run_on):
  # Of 16 examples, 4 on each of four devices: a group within a device, one over two devices, one
  # over all.
  groups = (2, 8, "all")
  on_one, on_four = run_on(1, "float64", 20, *groups), run_on(4, "float64", 20, *groups)
  for group, one, four in zip(groups, on_one, on_four, strict=True):
    assert one.keys() == four.keys()
    for name in one:
      where = f"{name}, groups of {group}"
      np.testing.assert_allclose(four[name], one[name], rtol=1e-10, atol=1e-10, err_msg=where)
  # Or the group would be without effect, and one net would have been compared three times.
  losses = [tuple(one["losses"]) for one in on_one]
  assert len(set(losses)) == len(groups)


def test_every_gradient_has_the_size_of_one_device_s_and_first_losses_agree_in_float32(run_on):
  (one,), (four,) = (run_on(devices, "float32", 3, "all") for devices in (1, 4))
  np.testing.assert_allclose(four["losses"][:2], one["losses"][:2], rtol=1e-5)
  gradients = [name for name in one if name.startswith("gradient")]
  assert len(gradients) > 20
  for name in gradients:
    ratio = np.vdot(four[name], one[name]) / np.vdot(one[name], one[name])
    assert ratio == pytest.approx(1, abs=1e-3), name
