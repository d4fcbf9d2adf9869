"""Configs as files, arguments and JSON."""

import dataclasses
import json
import pathlib

import pytest

from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.config import (
  built_in_names,
  check_config,
  differences,
  from_json,
  load_config,
  override_config,
  to_json,
)
from resnet_jax.training import Config, OptimizerConfig


def override(config, *arguments):
  return override_config(config, arguments, "resnet-jax train")


def test_every_built_in_experiment_loads_and_survives_json():
  names = set(built_in_names())
  assert {"digits", "cifar10", "finetune", "imagenet"} <= names
  for name in names - {"finetune"}:  # which follows the weights that it is given
    config = load_config(name, Config)
    assert from_json(json.loads(json.dumps(to_json(config))), Config) == config


def test_the_argument_after_the_colon_reaches_get_config():
  assert load_config("cifar10:plain56", Config).model.name == "plain56"
  assert load_config("cifar10:resnet20,full", Config).data.held_out == 0
  assert load_config("imagenet:resnet18", Config).model.name == "resnet18"
  assert load_config("imagenet:resnet18", Config).schedule.kind == "stepwise"
  assert load_config("imagenet:resnet18,plateau", Config).schedule.kind == "plateau"
  large = load_config("imagenet:resnet50,lars", Config)
  assert (large.batch_size, large.bn_group, large.optimizer.name) == (32768, 64, "lars")
  assert large.model.overrides == {"dtype": "bfloat16", "stride_in": "3x3"}
  with pytest.raises(UserError, match="lars and plateau exclude each other"):
    load_config("imagenet:resnet50,lars,plateau", Config)


def test_of_the_cifar_networks_resnet110_alone_is_warmed_up_as_in_the_paper():
  for name in ("resnet20", "resnet56", "plain56", "resnet1202", "resnet110", "resnet110,full"):
    warmup = load_config(f"cifar10:{name}", Config).schedule.warmup
    assert warmup.kind == ("error" if name.startswith("resnet110") else "none")
  assert (warmup.factor, warmup.error) == (0.1, 0.8)


@pytest.mark.parametrize(
  ("arguments", "field", "value"),
  [
    (["--config.optimizer.learning_rate=0.4"], "optimizer.learning_rate", 0.4),
    (["--config.optimizer.nesterov=True"], "optimizer.nesterov", True),
    (["--config.bn_group=32"], "bn_group", 32),
    (["--config.bn_group=None"], "bn_group", None),
    (["--config.seed", "7"], "seed", 7),
    (["--config.schedule.boundaries", "1 epochs", "2 epochs"], "schedule.boundaries", None),
    (["--config.data.mean=channel"], "data.mean", "channel"),
    (["--config.model.name=plain32"], "model.name", "plain32"),
    (["--config.model.shortcut=C"], "model.overrides.shortcut", "C"),
    (["--config.model.num_classes=100"], "model.overrides.num_classes", 100),
  ],
)
def test_an_argument_changes_its_field_and_nothing_else(arguments, field, value):
  before = load_config("cifar10", Config)
  after = override(before, *arguments)
  changed = differences(before, after)
  assert set(changed) <= {field}
  if field == "schedule.boundaries":
    assert after.schedule.boundaries == ("1 epochs", "2 epochs")
  elif changed:
    assert changed[field][1] == value
  else:
    assert (field, value) == ("bn_group", None) or before == after


def test_a_value_that_is_given_stays_even_where_it_is_the_paper_s():
  config = override(load_config("digits", Config), "--config.model.num_classes=10")
  assert config.model.overrides == {"num_classes": 10}


def test_a_function_as_override_is_refused_for_no_file_can_hold_it():
  check_config(Config(model=ModelConfig("resnet20", {"activation": "gelu", "norm": None})))
  with pytest.raises(UserError, match="no number, text"):
    check_config(Config(model=ModelConfig("resnet20", {"activation": max})))


def test_norm_and_activation_are_given_by_name():
  config = override(Config(), "--config.model.activation=leaky_relu", "--config.model.norm=None")
  assert config.model.overrides == {"activation": "leaky_relu", "norm": None}
  network = override(config, "--config.model.addition=scaled").model.create()
  assert (network.activation, network.norm, network.addition) == ("leaky_relu", None, "scaled")


def test_the_network_s_fields_follow_the_name_that_is_given():
  config = override(Config(), "--config.model.shortcut=B", "--config.model.name=resnet56")
  assert config.model == ModelConfig("resnet56", {"shortcut": "B"})
  assert config.model.create().stage_sizes == (9, 9, 9)


def test_overrides_of_the_file_stay_unless_an_argument_replaces_them():
  config = Config(model=ModelConfig("resnet20", {"shortcut": "B", "width": 8}))
  assert override(config, "--config.model.width=4").model.overrides == {"shortcut": "B", "width": 4}
  assert override(config, "--config.model.shortcut=A").model.overrides == {
    "shortcut": "A",
    "width": 8,
  }


@pytest.mark.parametrize(
  ("argument", "names"),
  [
    ("--config.optimizer.learnin_rate=0.4", ["learnin_rate", "learning_rate"]),
    ("--config.batch_size=many", ["batch_size", "many"]),
    ("--config.data.mean=image", ["image", "pixel", "channel"]),
    ("--config.model.shortcut=D", ["shortcut", "D"]),
    ("--config.model.depth=3", ["depth"]),
  ],
)
def test_a_wrong_argument_exits_with_2_and_says_what_is_wrong(argument, names, capsys):
  with pytest.raises(SystemExit) as error:
    override(Config(), argument)
  assert error.value.code == 2
  message = "".join(capsys.readouterr())
  for name in names:
    assert name in message


def write(folder: pathlib.Path, body: str) -> str:
  path = folder / "experiment.py"
  path.write_text(f"from resnet_jax.training import *\n{body}\n")
  return str(path)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("x = 1", "get_config"),
    ("def get_config(): return {}", "dict"),
    ("def get_config(: pass", "line 2"),
    ("def get_config(): return Config(batch_size='12')", "batch_size"),
    ("def get_config(): return Config(data='digits')", "data"),
    ("def get_config(): return Config(batch_size=0)", "batch_size"),
    ("import nowhere", "line 2: ModuleNotFoundError: No module named 'nowhere'"),
    ("def get_config():\n  return Config(lr=1)", "line 3: TypeError.*'lr'"),
    ("raise RuntimeError('boom')", "line 2: RuntimeError: boom"),
    ("def get_config(name): raise ValueError(f'no {name}')", "no resnet"),
  ],
)
def test_a_wrong_experiment_file_is_the_user_s_mistake(body, message, tmp_path):
  with pytest.raises(UserError, match=message):
    load_config(write(tmp_path, body) + ":resnet" * ("name" in body), Config)


@pytest.mark.parametrize("reference", ["digts", "nowhere/x.py", "digits:x"])
def test_a_config_that_is_not_there_is_the_user_s_mistake(reference):
  with pytest.raises(UserError):
    load_config(reference, Config)


def test_a_network_that_does_not_exist_is_the_user_s_mistake():
  with pytest.raises(UserError, match="resnet20"):
    override(Config(), "--config.model.name=resnet21")


def test_json_of_another_version_names_the_field():
  values = to_json(Config())
  values["optimizer"]["betas"] = 0.9
  with pytest.raises(UserError, match=r"optimizer\.betas"):
    from_json(values, Config)
  with pytest.raises(UserError, match="seed"):
    from_json(to_json(Config()) | {"seed": "one"}, Config)


def test_differences_are_by_path_with_both_values():
  a = Config()
  b = dataclasses.replace(
    a, seed=3, optimizer=OptimizerConfig(momentum=0.8), model=ModelConfig("resnet20", {"width": 8})
  )
  assert differences(a, b) == {
    "seed": (0, 3),
    "optimizer.momentum": (0.9, 0.8),
    "model.overrides.width": (None, 8),
  }
