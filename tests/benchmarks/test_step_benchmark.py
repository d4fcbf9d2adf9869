"""The benchmark of the step times what it says, and refuses turns that leave something out."""

import json

import pytest

from resnet_jax import cli

FIELDS = [
  *("--config.model.stage_sizes", "1", "--config.model.width=4", "--config.batch_size=16"),
  "--config.wandb_project=nowhere",
  *("--config.schedule.warmup.kind=linear", "--config.schedule.warmup.length=300steps"),
]


def benchmark(capsys, *arguments):
  with pytest.raises(SystemExit) as end:
    cli.main(["benchmark", "step", "--config", "digits", *FIELDS, *arguments])
  return end.value.code, *capsys.readouterr()


def test_it_ends_with_one_json_object_of_medians(capsys):
  status, out, err = benchmark(
    capsys, "--steps", "4", "--rounds", "2", "--log-every", "2", "--save-every", "2"
  )
  assert status == 0, err
  *lines, last = out.splitlines()
  result = json.loads(last)
  assert result["step_ms"] > 0
  assert result["images_per_second"] == pytest.approx(16e3 / result["step_ms_in_run"], rel=1e-3)
  assert len([line for line in lines if line.startswith("round ")]) == 2


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--steps", "4", "--log-every", "2", "--save-every", "5"], "has no checkpoint"),
    (["--steps", "4", "--log-every", "3", "--save-every", "2"], "is no multiple of --log-every"),
  ],
)
def test_turns_without_a_checkpoint_or_a_record_at_their_end_are_refused(arguments, words, capsys):
  status, _, err = benchmark(capsys, *arguments)
  assert status == 2
  assert words in err
