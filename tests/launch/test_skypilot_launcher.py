"""Managed jobs of SkyPilot: their task files, what a shell runs of them, which are submitted."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml
from test_command_lines import NASTY, job

from resnet_jax.errors import UserError
from resnet_jax.launch.accelerators import parse_accelerator
from resnet_jax.launch.job import Job
from resnet_jax.launch.skypilot import SkyPilot, job_name
from resnet_jax.launch.sweep import Sweep
from resnet_jax.run.location import LocalDirectory

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = [
  *NASTY,
  "x\nEND_OF_TASK\ntouch injected",
  "a: [b, {c",
  "# no comment",
  "%TAG",
  " \t\r\n x ",
]
# Keeps a queue in a file beside it; without one it complains as SkyPilot without a controller.
SKY = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
queue = here / "queue.json"
jobs = json.loads(queue.read_text()) if queue.exists() else None
if sys.argv[1:3] == ["jobs", "queue"]:
  print("\\x1b[2mStarting a local server.\\x1b[0m\\n\\x1b[0m\\x1b[32m started. \\x1b[0m\\x1b[0m")
  if sys.argv[3:] != ["--all", "--output", "json"]:
    sys.exit(f"unknown options {{sys.argv[3:]}}")
  if jobs is None:
    sys.exit((here / "complaint").read_text())
  print(json.dumps(jobs, indent=2))
elif sys.argv[1:6] == ["jobs", "launch", "--yes", "--detach-run", "--name"]:
  name, file = sys.argv[6:]
  text = pathlib.Path(file).read_text()
  if name in os.environ.get("FAILING", ""):
    sys.exit("no quota")
  jobs = jobs or []
  jobs.append({{"job_id": len(jobs) + 1, "job_name": name, "status": "PENDING", "task": text}})
  queue.write_text(json.dumps(jobs))
  print("submitted")
else:
  sys.exit(f"unknown command {{sys.argv}}")
"""


class StandIn:
  """A program `sky` on the path, and its queue."""

  def __init__(self, folder: pathlib.Path):
    self._queue = folder / "queue.json"
    (folder / "complaint").write_text(
      "sky.exceptions.ClusterNotUpError: No in-progress managed jobs."
    )
    program = folder / "sky"
    program.write_text(SKY)
    program.chmod(0o755)
    self.folder = folder

  def jobs(self) -> list[dict]:
    return json.loads(self._queue.read_text()) if self._queue.exists() else []

  def complain(self, text: str) -> None:
    self._queue.unlink(missing_ok=True)
    (self.folder / "complaint").write_text(text)

  def end(self, name: str, status: str) -> None:
    jobs = self.jobs()
    next(each for each in reversed(jobs) if each["job_name"] == name)["status"] = status
    self._queue.write_text(json.dumps(jobs))


@pytest.fixture
def sky(tmp_path, monkeypatch) -> StandIn:
  folder = tmp_path / "bin"
  folder.mkdir()
  monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
  return StandIn(folder)


@pytest.fixture(autouse=True)
def clone(monkeypatch):
  """The tests run in the clone, as a user who has one."""
  monkeypatch.chdir(ROOT)


def launcher(files: pathlib.Path, **options) -> SkyPilot:
  return SkyPilot(files, parse_accelerator(options.pop("accelerator", "v5e-64")), **options)


def run_of(workdir: str, index: int = 0) -> Job:
  name = f"{index:03d}"
  arguments = ["train", "--config", "digits", "--workdir", f"{workdir}/{name}"]
  return Job(name, pathlib.Path(workdir, name), {"seed": index}, arguments, 10)


@pytest.fixture
def tasks(tmp_path) -> list[str]:
  """The task files of the built-in sweep that is meant for a slice of 64 chips."""
  data = ["--config.data.data_dir=gs://bucket/data"]
  sweep = Sweep("imagenet_lars", LocalDirectory(tmp_path / "lars"), data, needs_data=False)
  launched = launcher(tmp_path / "files", spot=True, retries=4, zone="us-west4-a")
  return [launched.task(each) for each in sweep.jobs]


def test_the_twelve_runs_of_a_sweep_are_twelve_tasks_on_a_slice_of_64_chips(tasks, tmp_path):
  read = [yaml.safe_load(task) for task in tasks]
  assert len({task["name"] for task in read}) == len(read) == 12
  for index, task in enumerate(read):
    assert task["resources"] == {
      "cloud": "gcp",
      "accelerators": "tpu-v5litepod-64",
      "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
      "zone": "us-west4-a",
      "use_spot": True,
      "job_recovery": {"max_restarts_on_errors": 4, "recover_on_exit_codes": [75]},
    }
    assert task["workdir"] == str(ROOT)
    assert ".[tpu,bucket,tfds]" in task["setup"]
    words = shlex.split(task["run"].splitlines()[-1])
    assert words[:3] == ["exec", "resnet-jax", "train"]
    assert words[words.index("--workdir") + 1] == str(tmp_path / "lars" / f"{index:03d}")
    assert words[-1] == "--distributed"


SKY_PYTHON = os.environ.get("RESNET_JAX_SKYPILOT_PYTHON", sys.executable)
READ = """
import json, sys
import sky
print(sky.__version__, file=sys.stderr)
read = []
for path in sys.argv[1:]:
  task = sky.Task.from_yaml(path)
  (resources,) = task.resources
  read.append({
    "name": task.name, "run": task.run, "setup": task.setup, "workdir": task.workdir,
    "accelerators": resources.accelerators, "runtime": resources.accelerator_args,
    "cloud": str(resources.cloud), "zone": resources.zone, "spot": resources.use_spot,
    "recovery": resources.job_recovery,
  })
print(json.dumps(read))
"""


def test_skypilot_reads_the_task_files_as_they_are_meant(tasks, tmp_path, capsys):
  found = subprocess.run([SKY_PYTHON, "-c", "import sky"], capture_output=True, check=False)
  if found.returncode:
    pytest.skip("SkyPilot is not here: RESNET_JAX_SKYPILOT_PYTHON names a Python that has it")
  nasty = [launcher(tmp_path).task(job(word)) for word in WORDS]
  texts = [*tasks, *nasty, launcher(tmp_path, accelerator="H100:8").task(run_of("gs://b/s"))]
  paths = [tmp_path / f"{index}.yaml" for index in range(len(texts))]
  for path, text in zip(paths, texts, strict=True):
    path.write_text(text)
  done = subprocess.run(
    [SKY_PYTHON, "-c", READ, *map(str, paths)],
    env=os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for text, got in zip(texts, json.loads(done.stdout.splitlines()[-1]), strict=True):
    task = yaml.safe_load(text)
    assert {name: got[name] for name in ("name", "run", "setup", "workdir")} == {
      name: task[name] for name in ("name", "run", "setup", "workdir")
    }
    # No strategy is SkyPilot's own.
    assert got["recovery"] == {"strategy": None, **task["resources"]["job_recovery"]}
    if "cloud" in task["resources"]:
      assert got["accelerators"] == {"tpu-v5litepod-64": 1}
      assert got["runtime"] == {"runtime_version": "v2-alpha-tpuv5-lite"}
      assert got["cloud"] == "GCP"
    else:
      assert got["accelerators"] == {"H100": 8}
    assert got["spot"] == task["resources"]["use_spot"]
    assert got["zone"] == task["resources"].get("zone")
  with capsys.disabled():
    print(f"\nread by SkyPilot {done.stderr.split()[-1]}: {len(texts)} task files")


@pytest.mark.parametrize("word", WORDS)
def test_no_value_and_no_path_can_inject_a_command(word, tmp_path):
  (tmp_path / "resnet-jax" / "bin").mkdir(parents=True)
  program = tmp_path / "resnet-jax" / "bin" / "resnet-jax"
  program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
  program.chmod(0o755)
  (tmp_path / "cwd").mkdir()
  run = job(word)
  task = yaml.safe_load(launcher(tmp_path).task(run))
  out = subprocess.run(
    ["sh", "-c", task["run"]],
    cwd=tmp_path / "cwd",
    env=os.environ | {"HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert list((tmp_path / "cwd").iterdir()) == []
  assert json.loads(out) == [*run.arguments, "--distributed"]
  # Of the names that SkyPilot takes, and that begin as a cluster's has to.
  assert job_name(run) == task["name"]
  assert all(part.isalnum() and part.isascii() for part in task["name"].split("-"))
  assert task["name"][0].isalpha()


@pytest.mark.parametrize("word", ["x", *(word for word in WORDS if "\r" not in word)])
def test_a_dry_run_prints_a_script_that_submits_exactly_what_is_submitted(
  word, sky, tmp_path, capfd
):
  folder = tmp_path / f"runs {word}".replace("\0", "")
  jobs = [job(word), run_of(str(folder), 1)]
  launched = launcher(folder / "skypilot", setup=word or "true")
  assert launched.launch(jobs).failures == {}
  direct, files = sky.jobs(), {p.name: p.read_text() for p in (folder / "skypilot").iterdir()}
  assert [each["task"] for each in direct] == [launched.task(each) for each in jobs]
  sky.complain("No in-progress managed jobs.")
  for path in (folder / "skypilot").iterdir():
    path.unlink()
  script = "\n".join(launched.lines(jobs))
  (tmp_path / "cwd").mkdir()
  subprocess.run(["sh", "-c", script], cwd=tmp_path / "cwd", check=True, capture_output=True)
  assert sky.jobs() == direct
  assert {p.name: p.read_text() for p in (folder / "skypilot").iterdir()} == files
  assert list((tmp_path / "cwd").iterdir()) == []


def test_what_is_queued_or_running_is_not_submitted_again_and_what_failed_is(sky, tmp_path, capfd):
  jobs = [run_of("gs://bucket/sweep", index) for index in range(6)]
  launched = launcher(tmp_path / "files")
  assert launched.launch(jobs).failures == {}
  first = sky.jobs()
  assert [each["job_name"] for each in first] == [job_name(each) for each in jobs]
  states = ("PENDING", "RUNNING", "RECOVERING", "SUCCEEDED", "FAILED", "CANCELLED")
  for each, status in zip(jobs, states, strict=True):
    sky.end(job_name(each), status)
  capfd.readouterr()
  launched.launch(jobs)
  assert [each["job_name"] for each in sky.jobs()[6:]] == [job_name(each) for each in jobs[4:]]
  out = capfd.readouterr().out
  assert "run 001 (seed=1): managed job 2 already, RUNNING" in out
  assert "run 003 (seed=3): finished, as managed job 4" in out
  # The newest job of a name counts: these two are queued now.
  launched.launch(jobs)
  assert len(sky.jobs()) == 8
  # One that succeeded as another task, which ended sooner say, is submitted.
  launcher(tmp_path / "files", retries=5).launch(jobs)
  assert [each["job_name"] for each in sky.jobs()[8:]] == [job_name(jobs[3])]


def test_runs_whose_last_step_is_saved_are_not_submitted(sky, tmp_path, capfd):
  jobs = [run_of(str(tmp_path / "sweep"), index) for index in range(2)]
  (jobs[0].workdir / "checkpoints" / "10").mkdir(parents=True)
  launched = launcher(tmp_path / "files")
  assert "# run 000 is finished" in launched.lines(jobs)
  launched.launch(jobs)
  assert [each["job_name"] for each in sky.jobs()] == [job_name(jobs[1])]
  assert "every host" in capfd.readouterr().err


def test_a_run_that_skypilot_refuses_is_reported_and_the_others_are_submitted(
  sky, tmp_path, monkeypatch, capfd
):
  jobs = [run_of("gs://bucket/sweep", index) for index in range(3)]
  monkeypatch.setenv("FAILING", job_name(jobs[1]))
  ending = launcher(tmp_path / "files").launch(jobs)
  assert ending.failures == {"001": "status 1 of sky jobs launch"}
  assert [each["job_name"] for each in sky.jobs()] == [job_name(jobs[0]), job_name(jobs[2])]
  assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["000.yaml", "002.yaml"]
  assert "no quota" in capfd.readouterr().err


def test_nothing_is_submitted_where_the_queue_cannot_be_seen(sky, tmp_path):
  sky.complain("first line\nthe server is down\n")
  with pytest.raises(UserError, match=r"queued already.*the server is down"):
    launcher(tmp_path / "files").launch([run_of("gs://bucket/sweep")])
  assert not (tmp_path / "files").exists()


def test_nothing_more_is_submitted_once_it_is_told_to_stop(sky, tmp_path):
  jobs = [run_of("gs://bucket/sweep", index) for index in range(3)]
  stopped = launcher(tmp_path / "files", stops=lambda: len(sky.jobs()) >= 2).launch(jobs)
  assert (stopped.interrupted, len(sky.jobs())) == (True, 2)


def test_sweeps_of_the_same_name_elsewhere_have_jobs_of_other_names(tmp_path):
  places = ("gs://a/lars", "gs://b/lars", "s3://a/lars", "runs/lars", "gs://a/2024", "gs://a")
  names = [job_name(run_of(place)) for place in places]
  assert len(set(names)) == len(names)
  assert names[0].startswith("lars-000-")
  assert names[4].startswith("sweep2024-000-")
  assert job_name(run_of("runs/lars")) == job_name(run_of(str(ROOT / "runs" / "lars")))


@pytest.mark.parametrize(
  ("text", "name", "runtime"),
  [
    ("v5e-64", "tpu-v5litepod-64", "v2-alpha-tpuv5-lite"),
    ("tpu-v5litepod-64", "tpu-v5litepod-64", "v2-alpha-tpuv5-lite"),
    ("TPU v5e-256", "tpu-v5litepod-256", "v2-alpha-tpuv5-lite"),
    ("v5lite-16", "tpu-v5litepod-16", "v2-alpha-tpuv5-lite"),
    ("v5-lite-16", "tpu-v5litepod-16", "v2-alpha-tpuv5-lite"),
    ("tpu-v6e-16", "tpu-v6e-16", "v2-alpha-tpuv6e"),
    ("v5p-128", "tpu-v5p-128", "v2-alpha-tpuv5"),
    ("tpu-v4-8", "tpu-v4-8", "tpu-ubuntu2204-base"),
    ("v3-32", "tpu-v3-32", "tpu-ubuntu2204-base"),
    ("H100:8", "H100:8", None),
    ("A100-80GB:8", "A100-80GB:8", None),
  ],
)
def test_accelerators_are_understood_however_they_are_spelled(text, name, runtime):
  accelerator = parse_accelerator(text)
  assert (accelerator.name, accelerator.runtime) == (name, runtime)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("v5-64", "v5e-N"),
    ("v5e", "such as v5e-64"),
    ("tpu", "such as v5e-64"),
    ("v9x-64", "v6e-N"),
    ("v5e-63", "32, 64, 128"),
    ("v6e-512", "128, 256 chips"),
    ("v4-4", "multiples of 8"),
    ("v5p-0", "multiples of 8"),
    ("H100; ls", "H100:8"),
    ("", "v5e-64"),
  ],
)
def test_an_accelerator_that_there_is_not_is_refused_with_those_there_are(text, words):
  with pytest.raises(UserError, match=words):
    parse_accelerator(text)


def test_gpus_are_one_host_and_need_no_other_processes(tmp_path):
  task = yaml.safe_load(launcher(tmp_path, accelerator="H100:8").task(run_of("gs://b/s")))
  assert "--distributed" not in task["run"]
  assert ".[cuda,bucket,tfds]" in task["setup"]
  assert task["resources"]["accelerators"] == "H100:8"
  assert task["resources"]["use_spot"] is False


def test_outside_a_clone_the_setup_has_to_be_given(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match="--setup COMMAND"):
    launcher(tmp_path)
  given = yaml.safe_load(launcher(tmp_path, setup="pip install x; y").task(run_of("gs://b/s")))
  assert (given["setup"], given["workdir"]) == ("pip install x; y", str(tmp_path))


@pytest.mark.parametrize("file", ["/abs/mine.py:x", "../mine.py"])
def test_an_experiment_that_the_hosts_would_not_have_is_refused(file, tmp_path):
  run = run_of("gs://b/s")
  arguments = ["train", "--config", file, *run.arguments[3:]]
  with pytest.raises(UserError, match="name a file in it"):
    launcher(tmp_path).task(Job("000", run.workdir, {}, arguments, 10))
