"""Overrides by dotted path: replaced in a config, and as arguments that restore the same config."""

import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.launch.overrides import plain, replace_fields, require_restored, to_arguments
from resnet_jax.run.config import differences, load_config, override_config
from resnet_jax.training import Config

BASE = load_config("cifar10", Config)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("seed", 3),
    ("seed", np.int64(3)),
    ("optimizer.learning_rate", 0.1 + 0.2),
    ("optimizer.learning_rate", 1e-7),
    ("optimizer.learning_rate", np.float32(0.3)),
    ("optimizer.learning_rate", 1),
    ("optimizer.nesterov", True),
    ("optimizer.nesterov", False),
    ("optimizer.clip_norm", 2.5),
    ("bn_group", None),
    ("bn_group", 32),
    ("ema_decay", 0.999),
    ("length", "30 epochs"),
    ("schedule.kind", "cosine"),
    ("schedule.boundaries", ("1 epochs", "2 epochs")),
    ("schedule.boundaries", ()),
    ("optimizer.undecayed", ["*/scale", "a b;$(c)'\"\n"]),
    ("data.mean", "channel"),
    ("data.mean", (0.5, -1.0, 1e-9)),
    ("data.std", np.array([0.25, 0.5, 1.0])),
    ("data.data_dir", "with space; $HOME `x` \"quoted\" 'too'\nand a line"),
    ("data.data_dir", "--config.seed=3"),
    ("data.data_dir", "1,2"),
    ("data.data_dir", "-x"),
    ("data.data_dir", ""),
    ("model.shortcut", "C"),
    ("model.shortcut", None),
    ("model.norm", None),
    ("model.stage_sizes", (1, 2, 3)),
    ("model.stage_sizes", [2]),
    ("model.frozen_bn", True),
    ("model.bn_epsilon", 1e-3),
    ("model.num_classes", 10),
    ("model.name", "resnet56"),
    ("model.name", "vgg16"),
  ],
)
def test_the_arguments_of_a_value_restore_exactly_the_config_that_is_meant(field, value):
  meant = replace_fields(BASE, {field: plain(value)})
  arguments = to_arguments({field: plain(value)})
  assert all(isinstance(argument, str) for argument in arguments)
  assert differences(override_config(BASE, arguments, "train"), meant) == {}
  changed = differences(BASE, meant)
  own = field.replace("model.", "model.overrides.") if field != "model.name" else field
  assert set(changed) <= {own}
  require_restored(BASE, arguments, meant)


def test_fields_together_restore_the_same_config_in_any_order():
  overrides = {
    "model.shortcut": "B",
    "model.name": "preact_resnet110",
    "schedule.boundaries": ["1 epochs"],
    "frozen": [],
    "optimizer.learning_rate": 0.3,
  }
  for order in (list(overrides), list(reversed(overrides))):
    chosen = {name: overrides[name] for name in order}
    require_restored(BASE, to_arguments(chosen), replace_fields(BASE, chosen))


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    ({"optimizer.lr": 0.1}, ["the config has no field optimizer.lr"]),
    ({"learning_rate": 0.1}, ["learning_rate", "did you mean optimizer.learning_rate"]),
    ({"optimizer": 0.1}, ["optimizer is a section"]),
    ({"model.depth": 3}, ["model.depth"]),
    ({"seed": "one"}, ["seed", "int"]),
    ({"seed": True}, ["seed"]),
    ({"seed": 1.5}, ["seed"]),
    ({"batch_size": 0}, ["batch_size"]),
    ({"optimizer.learning_rate": float("nan")}, ["optimizer.learning_rate"]),
    ({"optimizer.nesterov": 1}, ["nesterov"]),
    ({"optimizer.nesterov": max}, ["optimizer.nesterov"]),
    ({"model.shortcut": "D"}, ["model.shortcut", "'D'"]),
    ({"model.width": "8"}, ["model.width"]),
    ({"model.name": "resnet21"}, ["resnet21", "resnet20"]),
    ({"model.name": 20}, ["model.name"]),
    ({"model.groups": 2}, ["bottleneck"]),
  ],
)
def test_a_mistake_is_named_by_its_field(overrides, words):
  with pytest.raises(UserError) as error:
    replace_fields(BASE, overrides)
  for word in words:
    assert word in str(error.value)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
  "overrides",
  [{"data.data_dir": "None"}, {"frozen": ["--config.seed=3"]}, {"frozen": ["--help"]}],
)
def test_what_no_command_line_can_say_is_refused(overrides, capsys):
  meant = replace_fields(BASE, overrides)
  with pytest.raises(UserError, match="cannot be given on a command line"):
    require_restored(BASE, to_arguments(overrides), meant)
  assert capsys.readouterr() == ("", "")
