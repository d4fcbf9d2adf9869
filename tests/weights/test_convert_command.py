"""The command `convert`, and runs that start from what it writes."""

import dataclasses
import importlib
import json
import sys
import types

import jax
import numpy as np
import pytest
from tiny import TINY, assert_equal, tiny

import resnet_jax
from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.workdir import claim
from resnet_jax.training import Config, fit
from resnet_jax.training.build import build_run
from resnet_jax.training.restore import initial_state
from resnet_jax.training.weight_source import read_layout
from resnet_jax.weights import (
  convert,
  load_export,
  load_weights,
  save_torchvision,
  to_torchvision,
)

FIELDS = ("--config.model.stage_sizes", "1", "1", "1", "1", "--config.model.width=4")


@pytest.fixture
def foreign(tmp_path):
  """A file of torchvision's, and the variables that are in it."""
  model, variables = tiny()
  save_torchvision(tmp_path / "net.safetensors", model, variables)
  return tmp_path / "net.safetensors", variables


def arguments(file, output, *more):
  return ("convert", "--source", "torchvision", "--input", file, "--model", "resnet18",
          "--output", output, *FIELDS, *more)  # fmt: skip


def test_weights_go_in_and_out_again(foreign, tmp_path, call_here):
  file, variables = foreign
  names = tmp_path / "names.txt"
  names.write_text("a\nb\nc\nd\ne\n")
  status, out, err = call_here(*arguments(file, tmp_path / "in", "--class-names", names))
  assert status == 0, err
  assert out.startswith(f"{tmp_path / 'in'}: resnet18 of net.safetensors, with ")
  assert "pool_padding=(1, 1)" in out
  _, found, info = load_weights(tmp_path / "in")
  assert_equal(found, variables)
  assert info.class_names == tuple("abcde")
  status, out, err = call_here(
    "convert", "--weights", tmp_path / "in", "--format", "torchvision",
    "--output", tmp_path / "out.safetensors",
  )  # fmt: skip
  assert status == 0, err
  assert (tmp_path / "out.safetensors").read_bytes() == file.read_bytes()


def test_what_is_wrong_costs_a_short_message_and_writes_nothing(foreign, tmp_path, call_here):
  file, _ = foreign
  half = tmp_path / "half.safetensors"
  half.write_bytes(file.read_bytes()[:1000])
  output = tmp_path / "in"
  for more, message in (
    (arguments(half, output), "is not a whole safetensors file"),
    (arguments(tmp_path / "none.pth", output), "none.pth does not exist"),
    (arguments(file, output, "--config.model.num_classes=7"), "fc.bias is (5,)"),
    (arguments(file, output)[: -len(FIELDS)], "is not of resnet18: "),
    ((*arguments(file, output)[: -len(FIELDS)], FIELDS[-1]), "missing: layer1.1.conv1"),
    (arguments(file, tmp_path), "is there already"),
    (arguments(file, output, "--class-names", tmp_path / "n.txt"), "n.txt cannot be read"),
    (arguments(file, output, "--format", "torchvision"), "give --source, --input, --model"),
    (("convert", "--output", output), "give --source, --input, --model"),
    (("convert", "--weights", tmp_path, "--format", "torchvision", "--output", "a.pth"),
     "torchvision is FILE.safetensors"),
    (("convert", "--weights", tmp_path, "--format", "torchvision", "--output", "a.safetensors"),
     "is not the directory of a run"),
  ):  # fmt: skip
    status, out, err = call_here(*more)
    assert (status, out) == (2, ""), more
    assert message in err
    assert "Traceback" not in err
    assert not output.exists()


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("resnet18", {"pool_padding": (0, 1)}, r"pool_padding of this network is \(0, 1\)"),
    ("resnet50", {"stride_in": "1x1"}, "stride_in of this network is '1x1'"),
    ("resnet18", {"shortcut": "C"}, "shortcut of this network is 'C'"),
    ("resnet18", {"bn_epsilon": 1e-3}, "bn_epsilon of this network is 0.001"),
    ("resnet18", {"squeeze_excitation": 4}, "squeeze_excitation of this network is 4"),
  ],
)
def test_networks_that_torchvision_would_compute_otherwise_are_not_written(name, fields, message):
  with pytest.raises(UserError, match=message):
    to_torchvision(*tiny(name, **fields))


DATA = DataConfig("synthetic", synthetic=SyntheticConfig(8, 4, image_size=32, num_classes=3))
CONFIG = Config(
  model=ModelConfig("resnet18", {k: v for k, v in TINY.items() if k != "num_classes"}),
  data=DATA,
  batch_size=4,
  length="1 steps",
)


def test_a_run_starts_from_converted_weights(foreign, tmp_path, call_here, capfd):
  file, variables = foreign
  call_here(*arguments(file, tmp_path / "in"))
  config = dataclasses.replace(CONFIG, init_from=str(tmp_path / "in"), reset=("head/*",))
  state = jax.device_get(initial_state(build_run(config)))
  lines = capfd.readouterr().out.splitlines()
  assert lines[0] == (
    f"weights of {tmp_path / 'in'} (torchvision resnet18); head/bias, head/kernel start at random"
  )
  assert lines[1].startswith("pictures are not shown as these weights expect; to show them so: ")
  assert len(lines) == 2
  assert_equal(state.batch_stats, variables["batch_stats"])
  other = ModelConfig("resnet18", CONFIG.model.overrides | {"pool_padding": (0, 1)})
  initial_state(build_run(dataclasses.replace(config, model=other)))
  assert capfd.readouterr().out.splitlines()[1] == (
    "this network has pool_padding=(0, 1), unlike that of the weights; as theirs: "
    "--config.model.pool_padding 1 1"
  )
  scaled = ModelConfig("resnet18", CONFIG.model.overrides | {"addition": "scaled"})
  initial_state(build_run(dataclasses.replace(config, model=scaled)))
  assert "addition='scaled'" in capfd.readouterr().out.splitlines()[1]
  without_head = {name: tree for name, tree in variables["params"].items() if name != "head"}
  assert_equal({name: state.params[name] for name in without_head}, without_head)
  with pytest.raises(UserError, match="holds converted weights, no steps"):
    read_layout(f"{tmp_path / 'in'}:best")
  (tmp_path / "in" / "weights.safetensors").write_bytes(b"")
  with pytest.raises(UserError, match=r"init_from=.*weights\.safetensors is damaged"):
    read_layout(str(tmp_path / "in"))


def test_a_run_s_weights_go_out(tmp_path, call_here):
  (tmp_path / "run").mkdir()
  claim(tmp_path / "run", CONFIG, ())
  state = jax.device_get(fit(build_run(CONFIG), tmp_path / "run"))
  file = tmp_path / "out.safetensors"
  status, out, err = call_here(
    "convert", "--weights", tmp_path / "run", "--format", "torchvision", "--output", file
  )
  assert status == 0, err
  assert out == f"{file}: step 1 of {tmp_path / 'run'}\n"
  fields = {name: value for name, value in TINY.items() if name != "num_classes"}
  variables, _ = convert("torchvision", file, "resnet18", fields)
  assert_equal(variables["params"], jax.tree.map(np.asarray, state.params))
  status, out, err = call_here(
    "convert", "--weights", tmp_path / "run", "--format", "stablehlo",
    "--output", tmp_path / "network",
  )  # fmt: skip
  assert status == 0, err
  assert out.startswith(f"{tmp_path / 'network'}: step 1 of {tmp_path / 'run'}; takes uint8 (N,")
  _, info = load_export(tmp_path / "network")
  assert (info.model, info.source) == ("resnet18", "step 1 of run (run)")


@pytest.fixture
def hub(monkeypatch, tmp_path):
  """A hub that has one name, whose folder is given."""
  folder = tmp_path / "hub"
  folder.mkdir()

  def snapshot_download(name, allow_patterns):
    assert "config.json" in allow_patterns
    if name != "timm/tiny.a1":
      raise OSError("no such name\nin many lines")
    return str(folder)

  found = types.SimpleNamespace(snapshot_download=snapshot_download)
  monkeypatch.setitem(sys.modules, "huggingface_hub", found)
  return folder


def test_a_name_on_the_hub_is_had_from_there(hub, foreign):
  file, variables = foreign
  (hub / "model.safetensors").write_bytes(file.read_bytes())
  (hub / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
  fields = {name: TINY[name] for name in ("width", "stage_sizes")}
  found, info = convert("timm", "timm/tiny.a1", "resnet18", fields)
  assert_equal(found, variables)
  assert (info.file, info.preprocessing) == ("timm/tiny.a1", None)
  model, again, _ = resnet_jax.create("resnet18", weights="timm/tiny.a1", **fields)
  assert_equal(again, variables)
  assert model.num_classes == 5
  with pytest.raises(UserError, match=r"timm/none is not here, .* no such name$"):
    convert("timm", "timm/none", "resnet18")


def test_without_the_hub_s_package_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(UserError, match=r"pip install 'resnet_jax\[hub\]'"):
    convert("timm", "timm/resnet50.a1_in1k", "resnet50")


def test_the_command_offers_every_source(call_here):
  sources = importlib.import_module("resnet_jax.weights").SOURCES
  assert "{" + ",".join(sources) + "}" in call_here("convert", "--help")[1]
