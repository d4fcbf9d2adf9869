"""What a run hands to its training step: every argument, and all of them together in numbers."""

import inspect
from unittest import mock

import pytest
from runs import BASE
from step_rows import SHORT, STEPS, trained
from table import agree, with_fields
from training_by_hand import train_by_hand

from resnet_jax import devices
from resnet_jax.training import loop
from resnet_jax.training.build import build_run
from resnet_jax.training.step import make_step

# With each of the optimizers, all that a step takes besides.
TOGETHER = {
  "label_smoothing": 0.2,
  "ema_decay": 0.15,
  "bn_group": 2,
  "accumulate": 2,
  "optimizer.weight_decay": 0.02,
  "optimizer.undecayed": ("*/bias",),
  "optimizer.clip_norm": 0.05,
  "frozen": ("stage1/norm1/bias",),
}
RECIPES = {
  "sgd": {"optimizer.nesterov": True, "optimizer.momentum": 0.7},
  "decoupled": {"optimizer.weight_decay_form": "decoupled"},
  "lars": {
    "optimizer.name": "lars",
    "optimizer.momentum": 0.8,
    "optimizer.lars.trust_coefficient": 0.3,
    "optimizer.lars.epsilon": 0.01,
    "optimizer.lars.exclude": ("head/bias", "*/scale"),
  },
  "adamw": {
    "optimizer.name": "adamw",
    "optimizer.adam.beta1": 0.6,
    "optimizer.adam.beta2": 0.8,
    "optimizer.adam.epsilon": 0.1,
  },
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_with_all_settings_at_once_is_the_training_by_hand(recipe):
  config = with_fields(BASE, SHORT | TOGETHER | RECIPES[recipe])
  found, want = trained(config), train_by_hand(config, STEPS)
  assert set(want["validation"]) == {"loss", "ema_loss"}
  for part, numbers in want.items():
    assert agree(found[part], numbers, rtol=1e-5), f"{part}: {found[part]}, expected {numbers}"


def test_a_step_is_given_every_argument_and_each_is_the_run_s():
  run = build_run(with_fields(BASE, TOGETHER))
  with mock.patch.object(loop, "make_step") as made:
    loop.compile_step(run)
  (call,) = made.call_args_list
  given = inspect.signature(make_step).bind(*call.args, **call.kwargs).arguments
  assert given == {
    "view": run.dataset.splits["train"].view,
    "model": run.model,
    "optimizer": run.optimizer,
    "axis_name": devices.AXIS,
    "accumulate": 2,
    "label_smoothing": 0.2,
    "ema_decay": 0.15,
  }
  # One with a default that is not passed on would not be noticed by the numbers.
  assert set(given) == set(inspect.signature(make_step).parameters)
