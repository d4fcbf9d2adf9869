"""The benchmark of the start times the command itself, with and without compiled programs."""

import json

import pytest

from resnet_jax.training.startup import PHASES

FIELDS = ["--config.model.stage_sizes=1,1", "--config.model.width=4", "--config.batch_size=16"]


def test_it_ends_with_one_json_object_whose_phases_add_up(call_here):
  status, out, err = call_here("benchmark", "start", "--config", "digits", *FIELDS, "--rounds", "1")
  assert status == 0, err
  *lines, last = out.splitlines()
  result = json.loads(last)
  assert [line.partition(":")[0] for line in lines] == ["round 1, cold", "round 1, warm"]
  names = [phase.replace(" ", "_") for phase in PHASES]
  for side in (result["cold"], result["warm"]):
    parts = ["python", *names]
    assert sum(side[name] for name in parts) == pytest.approx(side["total"], abs=0.01)
    assert 0 < side["first_line"] < side["total"]
    assert side["python"] > 0
  compiled = [side["weights"] + side["compiling"] for side in (result["cold"], result["warm"])]
  assert compiled[1] < compiled[0]


def test_a_run_that_is_refused_ends_it_with_the_reason(call_here):
  status, out, err = call_here("benchmark", "start", "--config", "nothing", "--rounds", "1")
  assert status == 2
  assert not out
  assert "no built-in experiment is called 'nothing'" in err
