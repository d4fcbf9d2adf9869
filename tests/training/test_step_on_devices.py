"""The training step is one function: on one device and four, mapped either way, in parts or not."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("steps_on_devices.py")
PARTS = "accumulate=4"
SHARD_MAP = 'parallel="shard_map"'
FIELDS = {  # of a case on four devices, beside the batch-norm group
  "on_four": [],
  "in_parts_on_four": [PARTS],
  "in_parts_by_shard_map_on_four": [PARTS, SHARD_MAP],
}
# Of 32 examples, 8 on each of four devices: groups within a device, and one over
# all. In four parts of 8 examples, 2 on a device: within a device, and over all.
GROUPS = {
  2: ["on_four", "in_parts_on_four"],
  8: ["in_parts_by_shard_map_on_four"],
  None: ["on_four"],
}


def said(group: int | None) -> str:
  return f"bn_group={'null' if group is None else group}"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  """The arrays of every case, each number of devices in a process of its own."""
  folder = tmp_path_factory.mktemp("steps")
  cases: dict[int, list[str]] = {1: [], 4: []}
  for group, names in GROUPS.items():
    cases[1].append(f"reference-{group}:float64:20:{said(group)}")
    for name in names:
      cases[4].append(":".join([f"{name}-{group}", "float64", "20", said(group), *FIELDS[name]]))
  flags = os.environ.get("XLA_FLAGS", "")
  for devices in cases:
    count = f"--xla_force_host_platform_device_count={devices}"  # the last of a name wins
    subprocess.run(
      [sys.executable, SCRIPT, folder, *cases[devices]],
      env=os.environ | {"XLA_FLAGS": f"{flags} {count}"},
      check=True,
      timeout=600,
    )
  return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.mark.parametrize(
  ("group", "case"), [(group, case) for group, cases in GROUPS.items() for case in cases]
)
def test_every_way_to_compute_a_step_gives_the_same_state_in_float64(group, case, results):
  one, other = results[f"reference-{group}"], results[f"{case}-{group}"]
  assert one.keys() == other.keys()
  assert any(".average" in name for name in one)
  assert any(name.startswith("gradient") for name in one)
  for name in one:
    np.testing.assert_allclose(other[name], one[name], rtol=1e-10, atol=1e-10, err_msg=name)


def test_groups_of_other_sizes_are_other_functions(results):
  losses = [results[f"reference-{group}"]["losses"][0] for group in GROUPS]
  assert len(set(losses)) == len(losses)
