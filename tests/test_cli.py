"""The command line, as a user has it: in a process of its own.

Each command is started so. What it then says of many mistakes is asked within this process, where
an exception that nobody catches would fail the test.
"""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import PIL.Image
import pytest
from one_device import ONE_DEVICE

from resnet_jax.commands.process import Preempted
from resnet_jax.run import read_config
from resnet_jax.training import Config, build_run
from resnet_jax.training.restore import restore_variables

SMALL = [
  "--config.model.stage_sizes",
  "1",
  "--config.model.width=4",
  "--config.batch_size=32",
  "--config.length=3 epochs",
  "--config.log_every=10 steps",
  "--config.checkpoint.every=7 steps",
]


def start(*arguments, **options) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "resnet_jax", *map(str, arguments)],
    env=os.environ | ONE_DEVICE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def call(*arguments) -> tuple[int, str, str]:
  process = start(*arguments)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def digits(workdir: pathlib.Path) -> tuple[object, ...]:
  return ("train", "--config", "digits", "--workdir", workdir, *SMALL)


def train(workdir: pathlib.Path, *more) -> tuple[int, str, str]:
  return call(*digits(workdir), *more)


def records(workdir: pathlib.Path, file: str = "metrics.jsonl") -> list[dict]:
  lines = map(json.loads, (workdir / file).read_text().splitlines())
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@functools.cache
def last_params(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  _, variables = restore_variables(build_run(read_config(workdir, Config)), workdir, "last")
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
  """A run that was never killed, with a copy of its records as they were at its end."""
  workdir = tmp_path_factory.mktemp("whole")
  status, _, err = train(workdir)
  assert status == 0, err
  shutil.copy(workdir / "metrics.jsonl", workdir / "trained.jsonl")
  return workdir


def test_a_run_leaves_config_environment_metrics_events_and_checkpoints(whole):
  config = json.loads((whole / "config.json").read_text())
  assert config["model"] == {
    "name": "resnet20",
    "overrides": {"stage_sizes": [1], "width": 4},
  }
  environment = json.loads((whole / "environment.json").read_text())
  assert {"commit", "dirty", "packages", "devices", "command"} <= set(environment)
  assert environment["packages"]["jax"]
  assert list(whole.glob("events.*"))
  assert list((whole / "checkpoints").iterdir())
  pairs = [(r["step"], r["split"]) for r in records(whole)]
  assert len(pairs) == len(set(pairs))
  assert all(0 <= r["accuracy"] <= 1 for r in records(whole))


def flip(file: pathlib.Path) -> None:
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


DAMAGES = {
  "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
  "one flipped bit": flip,
  "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize(
  "damage",
  [
    "one flipped bit",
    pytest.param("truncated", marks=pytest.mark.long),
    pytest.param("missing", marks=pytest.mark.long),
  ],
)
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(
  damage, whole, tmp_path
):
  run = tmp_path / "run"
  shutil.copytree(whole, run)
  last = max((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
  data = max((path for path in last.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
  DAMAGES[damage](data)
  status, _, err = call("evaluate", "--workdir", run)
  assert (status, len(err.splitlines())) == (2, 1)
  assert f"{last} is damaged (state/" in err
  assert "whole: " in err
  status, out, err = train(run)
  assert status == 0, err
  assert f"step {last.name} is damaged (state/" in err
  assert f"moved to checkpoints/{last.name}.damaged; going on from step" in err
  assert "resumed after step" in out
  assert records(run) == records(whole, "trained.jsonl")
  ours, theirs = last_params(run), last_params(whole)
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_run_without_a_whole_checkpoint_is_refused_and_left_alone(whole, tmp_path):
  shutil.copytree(whole / "checkpoints", tmp_path / "run" / "checkpoints")
  shutil.copy(whole / "config.json", tmp_path / "run")
  for file in (tmp_path / "run").rglob("run.json"):
    flip(file)
  before = sorted((tmp_path / "run" / "checkpoints").rglob("*"))
  status, _, err = train(tmp_path / "run")
  assert (status, len(err.splitlines())) == (2, 1)
  assert "is whole" in err
  assert "another --workdir" in err
  assert sorted((tmp_path / "run" / "checkpoints").rglob("*")) == before


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, call_here):
  (tmp_path / "lock").write_text("precious")
  (tmp_path / "config.json").write_text('{"theirs": 1}')
  status, _, err = call_here(*digits(tmp_path))
  assert status == 2, err
  assert (tmp_path / "lock").read_text() == "precious"
  assert (tmp_path / "config.json").read_text() == '{"theirs": 1}'
  assert len(list(tmp_path.iterdir())) == 2


def test_evaluate_counts_each_example_and_ends_with_the_accuracy(whole, call_here):
  status, out, err = call_here("evaluate", "--workdir", whole, "--split", "test")
  assert status == 0, err
  assert "examples: 360" in out
  name, percent = out.strip().splitlines()[-1].split(": ")
  assert name == "test accuracy"
  assert percent in {f"{right / 360:.2%}" for right in range(361)}
  assert [r["accuracy"] for r in records(whole) if r["split"] == "test"] == [
    pytest.approx(float(percent.removesuffix("%")) / 100, abs=1e-4)
  ]
  status, out, _ = call_here("evaluate", "--workdir", whole, "--checkpoint", "best")
  assert status == 0
  best = max(r["accuracy"] for r in records(whole) if r["split"] == "validation")
  assert out.strip().splitlines()[-1] == f"validation accuracy: {best:.2%}"


def test_report_draws_the_run(whole, tmp_path):
  status, out, err = call("report", whole, "--output", tmp_path / "report")
  assert status == 0, err
  assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
  assert "index.html" in out


def test_a_dry_run_says_what_the_run_would_refuse(whole, call_here, tmp_path):
  status, _, err = call_here(*digits(whole), "--config.seed=3", "--dry-run")
  assert status == 2
  assert "seed is 0, not 3" in err
  (tmp_path / "file").write_text("")
  status, _, err = call_here(*digits(tmp_path / "file"), "--dry-run")
  assert status == 2
  assert "Traceback" not in err


def test_sigterm_before_the_training_ends_it_with_the_status_of_a_pre_emption(tmp_path):
  process = start(*digits(tmp_path / "run"))
  while process.poll() is None and not listens(process):
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 75, err
  assert "SIGTERM came before the training" in err
  assert not (tmp_path / "run").exists()


def test_sigterm_before_the_training_ends_it_even_where_python_swallows_the_exit():
  before = signal.getsignal(signal.SIGTERM)
  try:
    preempted = Preempted()
    with pytest.raises(SystemExit):  # That a callback of the garbage collector would swallow.
      signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
      preempted.begin()
  finally:
    signal.signal(signal.SIGTERM, before)
  assert end.value.code == 75


def test_two_sigterms_at_once_are_one_and_a_later_one_ends_it():
  # As Slurm sends them where it pre-empts.
  code = (
    "import os, signal, time\n"
    "from resnet_jax.commands.process import Preempted\n"
    "preempted = Preempted()\n"
    "preempted.begin()\n"
    "os.system(f'kill -TERM {os.getpid()}; kill -TERM {os.getpid()}; (sleep 0.1; '\n"
    "          f'kill -TERM {os.getpid()}) &')\n"
    "time.sleep(0.3)\n"
    "print(preempted(1), flush=True)\n"
    "signal.raise_signal(signal.SIGTERM)\n"
    "print('lives')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
  )
  assert (done.returncode, done.stdout) == (-signal.SIGTERM, "True\n"), done.stderr


def listens(process) -> bool:
  """Whether a process has a handler of its own for SIGTERM."""
  status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
  caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
  return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_dry_run_writes_nothing(tmp_path):
  status, out, err = train(tmp_path / "new", "--dry-run")
  assert status == 0, err
  assert "parameters" in out
  assert not (tmp_path / "new").exists()


def test_a_workdir_in_use_is_refused_and_left_alone(whole, tmp_path):
  process = start("train", "--config", "digits", "--workdir", tmp_path, *SMALL)
  try:
    while not (tmp_path / "metrics.jsonl").exists():
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    status, _, err = train(tmp_path)
    assert status == 2
    assert f"process {process.pid}" in err
    assert "Traceback" not in err
  finally:
    process.kill()
    process.communicate()


def test_another_run_s_workdir_is_refused_by_field(whole, call_here):
  before = {p: p.read_bytes() for p in whole.iterdir() if p.suffix in (".json", ".jsonl")}
  status, _, err = call_here(*digits(whole), "--config.optimizer.learning_rate=0.4")
  assert status == 2
  assert "optimizer.learning_rate is 0.1, not 0.4" in err
  assert {p: p.read_bytes() for p in before} == before


# Of these commands no other test here has a mistake in a process of its own; and TensorFlow, which
# prepare imports, would greet on standard error once a process.
IN_A_PROCESS = (["prepare"], ["report"], ["benchmark"], ["fly"])


@pytest.mark.parametrize(
  ("arguments", "word"),
  [
    (["train", "--config", "digts", "--workdir", "W"], "digits"),
    (["train", "--config", "digits"], "--workdir"),
    (["train", "--config", "digits", "--workdir", "W", "--config.epochs=3"], "epochs"),
    (["train", "--config", "digits", "--workdir", "W", "--config.seed=one"], "one"),
    (["train", "--config", "digits", "--workdir", "W", "--config.batch_size=0"], "batch_size"),
    (["train", "--config", "digits", "--workdir", "W", "--config.bn_group=48"], "bn_group"),
    (["train", "--config", "digits", "--workdir", "W", "--config.model.name=resnet19"], "resnet"),
    (
      ["train", "--config", "cifar10", "--workdir", "W", "--config.data.data_dir=/nowhere"],
      "resnet-jax prepare cifar10 --data-dir /nowhere",
    ),
    (
      ["train", "--config", "imagenet", "--workdir", "W", "--config.data.data_dir=/nowhere"],
      "resnet-jax prepare imagenet2012 --data-dir /nowhere",
    ),
    (["train", "--config", "digits", "--workdir", "W", "--steps=3"], "--steps"),
    (["evaluate", "--workdir", "W"], "W"),
    (["prepare", "imagenet2021"], "imagenet2012"),
    (["report", "W", "--output", "R"], "W"),
    (["train", "--config", "digits", "--workdir", ""], "empty"),
    (["evaluate", "--workdir", __file__], "not the directory of a run"),
    (["benchmark", "output"], "input"),
    (
      ["benchmark", "input", "--dataset", "imagenet2012", "--data-dir", "/nowhere"],
      "resnet-jax prepare imagenet2012 --data-dir /nowhere",
    ),
    (["fly"], "fly"),
    ([], "COMMAND"),
  ],
)
def test_a_mistake_costs_a_short_message_exit_code_2_and_nothing_is_written(
  arguments, word, tmp_path, call_here
):
  run = call if arguments[:1] in IN_A_PROCESS else call_here
  arguments = [str(tmp_path / a) if a in ("W", "R") else a for a in arguments]
  status, _, err = run(*arguments)
  assert status == 2, err
  assert word in err
  assert "Traceback" not in err
  assert len(err.splitlines()) < 20
  assert list(tmp_path.iterdir()) == []


def test_prepare_leaves_a_folder_of_pictures_as_it_is_if_told_where_to_write(tmp_path):
  for name in ("cat", "dog"):
    folder = tmp_path / "pictures" / "train" / name
    folder.mkdir(parents=True)
    PIL.Image.new("RGB", (20, 30), "red").save(folder / "1.png")
  before = sorted((tmp_path / "pictures").rglob("*"))
  sizes = ("--image-size", "16", "--short-side", "18")
  places = ("--data-dir", tmp_path / "pictures", "--prepared-dir", tmp_path / "own")
  status, out, err = call("prepare", "folder", *places, *sizes)
  assert status == 0, err
  assert "the mean of 2 images" in out
  assert sorted((tmp_path / "pictures").rglob("*")) == before
  assert (tmp_path / "own" / "folder" / "statistics.npz").exists()


def test_evaluate_names_the_checkpoints_and_splits_that_there_are(whole, call_here):
  status, _, err = call_here("evaluate", "--workdir", whole, "--checkpoint", "9999")
  assert status == 2
  assert "9999" in err
  status, _, err = call_here("evaluate", "--workdir", whole, "--checkpoint", "newest")
  assert status == 2
  assert "last, best" in err


def test_models_lists_the_catalog_and_the_layers_of_one(call_here):
  status, out, _ = call_here("models")
  assert status == 0
  assert "resnet50" in out
  status, out, _ = call_here("models", "resnet50", "--config.model.stride_in=3x3")
  assert status == 0
  assert "[1x1, 64; 3x3, 64; 1x1, 256] x 3" in out
  assert out.splitlines()[-1].endswith("4,089,184,256")
  status, out, _ = call_here("models", "resnet18", "--image-size", "32")
  assert (status, out.splitlines()[1].split()[2]) == (0, "16x16x64")
  status, out, _ = call_here("models", "resnet50", "--config.model.stage_sizes=1,2,1,1")
  assert status == 0
  assert "] x 2" in out


def test_models_with_a_name_and_help_lists_its_fields(call_here):
  status, out, _ = call_here("models", "resnet50", "--help")
  assert status == 0
  assert "--image-size" in out
  assert "--config.model.shortcut {A,B,C,None}" in out
  assert "--config.model.dtype {float32,bfloat16,float16,float64}" in out


def test_models_ends_silently_where_nobody_reads_on():
  command = f"{sys.executable} -m resnet_jax models resnet50 | true; exit ${{PIPESTATUS[0]}}"
  result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
  assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(
  ("arguments", "word"),
  [
    (["resnet51"], "resnet-jax: no network is called 'resnet51': did you mean"),
    (["resnet50", "--config.model.name=resnet18"], "NAME is resnet50"),
    (["resnet50", "--config.model.shortcut=D"], "('A', 'B', 'C', 'None')"),
    (["resnet50", "--image-size", "16"], "at least 32x32"),
    (["resnet50", "--image-size", "0"], "positive integer"),
    (["resnet20", "--config.model.groups=2"], "only bottleneck"),
    (["resnet50", "--config.model.stride_in=5x5"], "3x3"),
    (["resnet50", "--stride_in=3x3"], "unrecognized"),
    (["--image-size", "64"], "NAME"),
  ],
)
def test_models_names_what_is_wrong(arguments, word, call_here):
  status, _, err = call_here("models", *arguments)
  assert status == 2
  assert word in err
  assert "Traceback" not in err


def test_help_of_every_command_exits_with_0_without_importing_jax():
  for command in (
    [],
    ["train"],
    ["evaluate"],
    ["reestimate-bn"],
    ["models"],
    ["prepare"],
    ["convert"],
    ["report"],
    ["sweep"],
    ["benchmark"],
    ["benchmark", "input"],
  ):
    code = (
      "import sys, resnet_jax.cli as c\n"
      f"try: c.main({[*command, '--help']!r})\n"
      "except SystemExit as e: print(e.code, 'jax' in sys.modules)"
    )
    result = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "0 False"
    assert "usage: resnet-jax" in result.stdout


def test_help_with_a_config_lists_its_fields(call_here):
  status, out, _ = call_here("train", "--config", "digits", "--help")
  assert status == 0
  for words in (
    "--config.optimizer.learning_rate",
    "--config.model.shortcut",
    "Examples in a step",
  ):
    assert words in out
