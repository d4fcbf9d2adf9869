"""How a machine is divided among the runs that are under way at a time."""

import os

import pytest

from resnet_jax.errors import UserError
from resnet_jax.launch import slots
from resnet_jax.launch.slots import Slot, split_machine


def gpus(monkeypatch, *names: str) -> None:
  monkeypatch.setattr(slots, "visible_gpus", lambda: list(names))


@pytest.mark.parametrize(
  ("names", "parallel", "shares"),
  [
    ("0123", None, ["0", "1", "2", "3"]),
    ("0123", 2, ["0,1", "2,3"]),
    ("012", 2, ["0", "1"]),
    ("57", 2, ["5", "7"]),
  ],
)
def test_gpus_are_divided_into_equal_shares_by_their_names(names, parallel, shares, monkeypatch):
  gpus(monkeypatch, *names)
  split = split_machine(parallel)
  assert [slot.environment for slot in split] == [{"CUDA_VISIBLE_DEVICES": s} for s in shares]


def test_one_run_at_a_time_has_all_gpus_and_more_than_there_are_is_refused(monkeypatch):
  gpus(monkeypatch, "0", "1")
  assert split_machine(1) == [Slot()]
  with pytest.raises(UserError, match="there are 2 GPUs"):
    split_machine(3)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are divided on Linux")
def test_without_gpus_cores_are_divided_into_equal_shares(monkeypatch):
  gpus(monkeypatch)
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 3, 5, 7})
  assert split_machine(None) == split_machine(1) == [Slot()]
  assert split_machine(2) == [Slot(cores=[1, 2]), Slot(cores=[3, 5])]
  assert split_machine(6) == [Slot()] * 6


def test_gpus_that_are_named_or_hidden_by_the_environment_are_so(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert slots.visible_gpus() == []
  monkeypatch.delenv("JAX_PLATFORMS")
  monkeypatch.setattr(slots.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
  assert slots.visible_gpus() == ["2", "GPU-abc"]
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  assert slots.visible_gpus() == []
