"""The start of a run: nothing is built twice, and it reports what it does."""

import pytest

from resnet_jax.commands import train
from resnet_jax.models import ResNet
from resnet_jax.models import config as model_config
from resnet_jax.run.config import load_config
from resnet_jax.training import Config, build, build_run
from resnet_jax.training.startup import PHASES, StartUp, parse_phases

EXPERIMENT = """
from resnet_jax.data import DataConfig, ResidentConfig
from resnet_jax.models import ModelConfig
from resnet_jax.training import Config

def get_config():
  return Config(
    model=ModelConfig("resnet20", {"stage_sizes": (1, 1), "width": 4}),
    data=DataConfig("digits", resident=ResidentConfig(padding=1, flip=False)),
    batch_size=64,
    length="2 steps",
  )
"""


@pytest.fixture
def experiment(tmp_path):
  path = tmp_path / "experiment.py"
  path.write_text(EXPERIMENT)
  return path


def test_a_run_constructs_its_network_once_and_traces_its_initialisation_once(
  experiment, tmp_path, call_here, monkeypatch
):
  build._initializer.cache_clear()
  counts = {"created": 0, "initialised": 0}
  create, init = model_config.create, ResNet.init

  def counted_create(*arguments, **fields):
    counts["created"] += 1
    return create(*arguments, **fields)

  def counted_init(self, *arguments, **fields):
    counts["initialised"] += 1
    return init(self, *arguments, **fields)

  monkeypatch.setattr(model_config, "create", counted_create)
  monkeypatch.setattr(ResNet, "init", counted_init)
  status, out, err = call_here("train", "--config", experiment, "--workdir", tmp_path / "run")
  assert status == 0, err
  assert counts == {"created": 1, "initialised": 1}

  first, *lines = out.splitlines()
  assert first == f"resnet-jax train: config {experiment}, workdir {tmp_path / 'run'}"
  network, data, devices, batch, length, workdir, compiling, started, *_ = lines
  assert network.split() == ["model", "resnet20,", "1,334", "parameters"]
  assert data.split(maxsplit=1) == ["data", "digits, 1,257 train, 180 validation, 360 test"]
  assert devices.split()[:2] == ["devices", "4"]
  assert batch.split(maxsplit=1) == ["batch", "64 examples, 16 a device"]
  assert length.split(maxsplit=1) == ["length", "2 steps, 128 examples, 0.1 epochs"]
  assert workdir.split() == ["workdir", str(tmp_path / "run")]
  assert compiling == "compiling the training step …"
  phases = parse_phases(started)
  assert tuple(phases) == PHASES
  assert phases["compiling"] > 0


def test_runs_of_equal_networks_share_one_trace_of_its_initialisation(experiment):
  config = load_config(str(experiment), Config)
  first = build_run(config)
  again = build_run(config, dataset=first.dataset)
  assert again.init is first.init


@pytest.mark.parametrize(
  ("arguments", "is_announced"),
  [
    ([], True),
    (["--coordinator", "localhost:1", "--processes", "2", "--process", "0"], True),
    (["--coordinator", "localhost:1", "--processes", "2", "--process", "1"], False),
    (["--dry-run"], False),
  ],
)
def test_the_first_line_of_the_first_process_precedes_the_import_of_jax(
  arguments, is_announced, tmp_path, call_here, monkeypatch
):
  monkeypatch.setattr(train, "configure_jax", lambda: exit(3))
  status, out, _ = call_here("train", "--config", "digits", "--workdir", tmp_path, *arguments)
  assert status == 3
  assert bool(out) is is_announced


def test_the_line_of_the_phases_can_be_read_back_and_others_are_not():
  start = StartUp()
  for phase in PHASES:
    start.ends(phase)
  assert tuple(parse_phases(f"{start}\n")) == PHASES
  assert parse_phases("step 100/2,000  train loss 2.3") is None
  assert parse_phases("network  started: 3") is None
