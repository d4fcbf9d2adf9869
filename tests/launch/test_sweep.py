"""From a sweep file to runs: all checked before the first starts, and one sweep a directory."""

import json
import pathlib

import pytest

from resnet_jax.errors import UserError
from resnet_jax.launch.sweep import Sweep
from resnet_jax.launch.sweep_file import built_in_sweeps, read_sweep
from resnet_jax.run.config import differences, load_config, override_config, to_json
from resnet_jax.run.location import LocalDirectory
from resnet_jax.run.workdir import claim
from resnet_jax.training import Config

SMALL = '{"model.stage_sizes": (1,), "length": "3 epochs"'


@pytest.fixture
def write(tmp_path):
  """Writes a sweep file of digits with these lines in it; gives its path."""

  def write(body: str, head: str = 'config = "digits"', name: str = "s.py") -> str:
    path = tmp_path / name
    path.write_text(f"import itertools\n{head}\n{body}\n")
    return str(path)

  return write


def seeds(count: int, more: str = "") -> str:
  return f"def sweep():\n  for s in range({count}):\n    yield {SMALL}, 'seed': s{more}}}"


def test_every_run_has_a_numbered_directory_and_a_command_that_restores_its_config(write, tmp_path):
  sweep = Sweep(write(seeds(3)), LocalDirectory(tmp_path / "W"), ["--config.log_every=2 epochs"])
  assert [job.name for job in sweep.jobs] == ["000", "001", "002"]
  assert [job.shown for job in sweep.jobs] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
  assert {job.steps for job in sweep.jobs} == {59}
  assert not (tmp_path / "W").exists()
  sweep.claim()
  stored = json.loads((tmp_path / "W" / "sweep.json").read_text())["runs"]
  for index, (job, run) in enumerate(zip(sweep.jobs, stored, strict=True)):
    command, reference, config, to, workdir, *fields = job.arguments
    assert (command, reference, config, to) == ("train", "--config", "digits", "--workdir")
    assert pathlib.Path(workdir) == job.workdir == tmp_path / "W" / job.name
    restored = override_config(load_config(config, Config), fields, "train")
    assert differences(restored, run["config"]) == {}
    assert restored.seed == run["overrides"]["seed"] == index
    assert (restored.length, restored.log_every) == ("3 epochs", "2 epochs")


def test_a_file_may_have_a_get_config_of_its_own_or_name_an_experiment_for_each_run(write):
  head = (
    "from resnet_jax.training import Config\n"
    "def get_config(): return Config(batch_size=60, length='2 epochs')"
  )
  own = write("def sweep(): yield {'seed': 1}", head)
  (run,) = read_sweep(own)
  assert run.experiment == own
  assert Sweep(own, LocalDirectory(pathlib.Path("nowhere"))).jobs[0].arguments[2] == own
  named = write("def sweep():\n  yield {'config': 'cifar10:plain20'}\n  yield {}")
  first, second = read_sweep(named)
  assert (first.experiment, first.overrides) == ("cifar10:plain20", {})
  assert (second.experiment, second.shown) == ("digits", {})


def test_draws_of_numpy_are_plain_numbers(write):
  head = "import numpy as np\nconfig = 'digits'"
  (run,) = read_sweep(
    write("def sweep(): yield {'seed': np.int64(3), 'x': (np.float32(1),)}", head)
  )
  assert run.overrides == {"seed": 3, "x": [1.0]}
  assert type(run.overrides["seed"]) is int


def test_every_built_in_sweep_passes_its_checks(tmp_path):
  assert {"cifar10_table6", "digits", "imagenet_lars"} <= set(built_in_sweeps())
  assert len(Sweep("digits", LocalDirectory(tmp_path)).jobs) == 6
  data = ["--config.data.data_dir=/nowhere"]
  table = Sweep("cifar10_table6", LocalDirectory(tmp_path), data, needs_data=False)
  assert len(table.jobs) == 25
  assert table.jobs[4].shown == {"config": "cifar10:resnet110,full", "seed": 0}
  assert {job.steps for job in table.jobs} == {64_000}  # The size of CIFAR-10 is known.
  with pytest.raises(UserError, match=r"run 1 of 25 \(000\).*resnet-jax prepare cifar10"):
    Sweep("cifar10_table6", LocalDirectory(tmp_path), data)


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("'optimizer.momentun': 0.8", ["no field optimizer.momentun", "optimizer.momentum"]),
    ("'optimizer.momentum': 'high'", ["optimizer.momentum", "float"]),
    ("'optimizer.momentum': 1.5", ["optimizer.momentum"]),
    ("'batch_size': 32, 'bn_group': 24", ["bn_group=24"]),
    ("'length': 'long'", ["length='long' is no duration"]),
    ("'data.dataset': 'digit'", ["digit"]),
    ("'config': 'digts'", ["digits"]),
    ("'schedule.kind': 'cosine', 'schedule.warmup.kind': 'linear'", ["warmup"]),
  ],
)
@pytest.mark.parametrize("needs_data", [True, False])
def test_a_mistake_in_run_7_of_12_names_the_run_and_the_field(
  override, words, needs_data, write, tmp_path
):
  file = write(
    f"def sweep():\n  for i in range(12):\n"
    f"    yield {SMALL}}} | ({{{override}}} if i == 6 else {{}})"
  )
  if "digit'" in override and not needs_data:
    return  # What data sets there are, is known where they are read.
  with pytest.raises(UserError) as error:
    Sweep(file, LocalDirectory(tmp_path / "W"), needs_data=needs_data)
  assert "run 7 of 12 (006): " in str(error.value)
  for word in words:
    assert word in str(error.value)
  assert len(str(error.value).splitlines()) == 1
  assert not (tmp_path / "W").exists()


@pytest.mark.parametrize(
  ("body", "head", "message"),
  [
    ("x = 1", "", "no function sweep"),
    ("def sweep(): yield {}", "", "run 1 of 1 varies no experiment"),
    ("def sweep(): return []", "config = 'digits'", "yields nothing"),
    ("def sweep(): yield 3", "config = 'digits'", "run 1 of 1 is 3: .*dictionaries"),
    ("def sweep(): yield {3: 4}", "config = 'digits'", "dictionaries"),
    ("def sweep():\n  yield {}\n  1 / 0", "config = 'digits'", "line 5: ZeroDivisionError"),
    ("def sweep(: pass", "", "line 3"),
    ("def sweep():\n  while True: yield {}", "config = 'digits'", "more than 10,000 runs"),
  ],
)
def test_a_wrong_sweep_file_is_the_user_s_mistake(body, head, message, write):
  with pytest.raises(UserError, match=message):
    read_sweep(write(body, head))


@pytest.mark.parametrize(("file", "word"), [("digts", "digits"), ("nowhere.py", "not exist")])
def test_a_sweep_that_is_not_there_is_the_user_s_mistake(file, word):
  with pytest.raises(UserError, match=word):
    read_sweep(file)


def test_the_same_sweep_goes_on_and_runs_may_be_added_at_its_end(write, tmp_path):
  Sweep(write(seeds(2)), LocalDirectory(tmp_path / "W")).claim()
  Sweep(write(seeds(2)), LocalDirectory(tmp_path / "W")).claim()
  longer = Sweep(write(seeds(2).replace("3 epochs", "4 epochs")), LocalDirectory(tmp_path / "W"))
  assert longer.jobs[0].steps == 79
  Sweep(write(seeds(3)), LocalDirectory(tmp_path / "W")).claim()
  assert len(json.loads((tmp_path / "W" / "sweep.json").read_text())["runs"]) == 3


def test_another_sweep_in_the_directory_is_refused_by_run_and_field(write, tmp_path):
  Sweep(write(seeds(3)), LocalDirectory(tmp_path / "W")).claim()
  before = (tmp_path / "W" / "sweep.json").read_bytes()
  for body, message in (
    (seeds(3).replace("range(3)", "(0, 5, 2)"), "another sweep: of its run 001 seed is 1, not 5"),
    (seeds(3, ", 'bn_group': 32"), "of its run 000 bn_group is None, not 32"),
    (seeds(2), "a sweep of 3 runs, and .* has 2"),
  ):
    with pytest.raises(UserError, match=message):
      Sweep(write(body), LocalDirectory(tmp_path / "W"))
  assert (tmp_path / "W" / "sweep.json").read_bytes() == before


def test_a_directory_that_is_no_sweep_s_is_refused(write, tmp_path):
  file = write(seeds(2))
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  (tmp_path / "file").write_text("")
  (tmp_path / "odd").mkdir()
  (tmp_path / "odd" / "sweep.json").write_text("[]")
  (tmp_path / "other" / "001").mkdir(parents=True)
  other = load_config("digits", Config)
  (tmp_path / "other" / "001" / "config.json").write_text(json.dumps(to_json(other)))
  for name, message in (
    ("run", "is the directory of a run"),
    ("file", "not a directory"),
    ("odd", "not that of a sweep"),
    ("other", r"run 2 of 2 \(001\).*holds a run with another config"),
  ):
    with pytest.raises(UserError, match=message):
      Sweep(file, LocalDirectory(tmp_path / name))


def test_a_field_that_the_file_gives_cannot_be_given_to_all_runs(write, tmp_path):
  with pytest.raises(UserError, match=r"--config.seed: sweep\(\) of .* gives this field"):
    Sweep(write(seeds(2)), LocalDirectory(tmp_path / "W"), ["--config.seed=3"])


def test_a_run_that_was_begun_with_the_same_command_is_of_the_sweep(write, tmp_path):
  file = write(seeds(2))
  job = Sweep(file, LocalDirectory(tmp_path / "W")).jobs[1]
  fields = job.arguments[5:]
  claim_config = override_config(load_config("digits", Config), fields, "train")
  job.workdir.mkdir(parents=True)
  claim(job.workdir, claim_config, ())
  Sweep(file, LocalDirectory(tmp_path / "W")).claim()
