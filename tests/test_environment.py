"""The Python that `make` takes and the environment that it makes, with imitated interpreters."""

import pathlib
import re
import runpy
import shutil
import subprocess

import pytest
from imitated_python import imitate

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAILS = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"  # a shim of pyenv
VERSIONS = ("3.13", "3.12", "3.11")


@pytest.fixture
def machine(tmp_path):
  """A machine without any Python: a PATH of its own, and no pyenv."""
  commands = tmp_path / "bin"
  commands.mkdir()
  for name in ("sh", "cat", "dirname", "head", "sed", "make", "rm", "touch", "bash", "grep"):
    if shutil.which(name):
      (commands / name).symlink_to(shutil.which(name))
  return Machine(tmp_path)


class Machine:
  """Commands of a PATH, and the tools run with it."""

  def __init__(self, folder):
    self.folder = folder
    self.commands = folder / "bin"
    self.pyenv = folder / "pyenv"

  def run(self, *command, python=None):
    environment = {"PATH": str(self.commands), "PYENV_ROOT": str(self.pyenv)}
    if python is not None:
      environment["PYTHON"] = str(python)
    return subprocess.run(
      list(map(str, command)),
      cwd=self.folder,
      env=environment,
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )

  def find(self, *versions, python=None):
    return self.run("sh", ROOT / "tools/find_python.sh", *versions, python=python)

  def make_environment(self, python=None):
    return self.run("sh", ROOT / "tools/make_environment.sh", "env", python=python)

  def add(self, version, name=None):
    return imitate(self.commands / (name or f"python{version}"), version)

  def add_failing(self, name):
    (self.commands / name).write_text(FAILS)
    (self.commands / name).chmod(0o755)


def assert_found(result, path):
  assert (result.returncode, result.stdout.strip()) == (0, str(path)), result.stderr


def test_the_newest_that_starts_is_taken(machine):
  machine.add_failing("python3.13")
  machine.add("3.11")
  newest = machine.add("3.12")
  assert_found(machine.find(), newest)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_python3_of_any_supported_version_serves(machine, version):
  only = machine.add(version, "python3")
  assert_found(machine.find(), only)


def test_a_python3_that_is_newer_than_those_named_by_version_is_taken(machine):
  machine.add("3.11")
  newest = machine.add("3.13", "python3")
  assert_found(machine.find(), newest)


def test_an_interpreter_of_pyenv_is_found_where_its_shim_fails(machine):
  machine.add_failing("python3.13")
  machine.add("3.12")
  hidden = imitate(machine.pyenv / "versions/3.13.2/bin/python", "3.13")
  assert_found(machine.find(), hidden)


def test_of_several_versions_asked_for_the_first_there_is_is_taken(machine):
  oldest = machine.add("3.11")
  machine.add("3.13")
  assert_found(machine.find("3.11"), oldest)
  assert_found(machine.find("3.12", "3.11"), oldest)
  missing = machine.find("3.12")
  assert missing.returncode == 1
  assert missing.stderr.startswith("No Python 3.12 that starts was found.")


def test_the_python_that_is_named_is_taken_although_another_is_newer(machine):
  machine.add("3.13")
  older = machine.add("3.11", "my python")
  assert_found(machine.find(python=older), older)


def test_without_any_the_message_names_what_to_install(machine):
  machine.add_failing("python3.13")
  machine.add("3.10", "python3")
  result = machine.find()
  assert (result.returncode, result.stdout) == (1, "")
  assert result.stderr.splitlines() == [
    "No Python 3.13, 3.12, 3.11 that starts was found.",
    "Install one from python.org, a package manager, pyenv or uv.",
  ]


@pytest.mark.parametrize(
  ("version", "wrong"),
  [
    ("2.7", "is Python 2.7; supported are 3.13, 3.12, 3.11"),
    ("3.10", "is Python 3.10; supported are 3.13, 3.12, 3.11"),
    ("3.14", "is Python 3.14; supported are 3.13, 3.12, 3.11"),
    ("failing", "does not start: pyenv: command not found"),
    ("absent", "does not start: no such command"),
    ("3.12 without ensurepip", "cannot make an environment (import of ensurepip halted"),
  ],
)
def test_a_python_that_is_named_and_cannot_serve_is_refused_with_those_that_can(
  machine, version, wrong
):
  serves = machine.add("3.11")
  if version == "failing":
    machine.add_failing("mine")
  elif "without" in version:
    imitate(machine.commands / "mine", version.split()[0], without="ensurepip")
  elif version != "absent":
    machine.add(version, "mine")
  result = machine.find(python="mine")
  assert (result.returncode, result.stdout) == (1, "")
  first, *rest = result.stderr.splitlines()
  assert first.startswith(f"PYTHON=mine {wrong}")
  assert rest == [
    "Leave PYTHON out to take the newest, or name one of these:",
    f"  make PYTHON={serves}",
  ]


def test_setup_cfg_declares_the_versions_that_are_looked_for():
  declared = (ROOT / "setup.cfg").read_text()
  script = (ROOT / "tools/find_python.sh").read_text()
  versions = re.search(r'^supported="(.*)"', script, re.MULTILINE)[1].split()
  assert versions == list(VERSIONS)
  assert sorted(versions) == re.findall(r"Python :: (3\.\d+)", declared)
  assert "python_requires = >=3.11, <3.14\n" in declared


def test_an_environment_is_made_by_the_newest_python_and_then_kept(machine):
  machine.add("3.11")
  first = machine.make_environment()
  assert first.stdout.startswith("== Making env with Python 3.11 of ")
  made_with = machine.folder / "env/made-with"
  before = made_with.stat().st_mtime_ns
  machine.add("3.13")  # installed since
  assert machine.make_environment().stdout == ""
  assert made_with.stat().st_mtime_ns == before


def test_the_python_that_is_named_replaces_an_environment_of_another_and_keeps_its_own(machine):
  older, newer = machine.add("3.11"), machine.add("3.13")
  machine.make_environment()
  stale = machine.folder / "env/installed"
  stale.touch()
  made_with = machine.folder / "env/made-with"
  assert made_with.read_text().startswith("3.13")
  assert machine.make_environment(newer).stdout == ""
  assert stale.exists()
  assert "Python 3.11" in machine.make_environment(older).stdout
  assert not stale.exists()
  assert made_with.read_text().startswith("3.11")
  assert machine.make_environment(older).stdout == ""


def test_a_python_that_is_refused_leaves_the_environment_as_it_is(machine):
  machine.add("3.12")
  machine.make_environment()
  made_with = machine.folder / "env/made-with"
  before = made_with.stat().st_mtime_ns
  assert machine.make_environment("absent").returncode == 1
  assert made_with.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["unsupported", "no pip", "upgraded", "gone", "unrecorded"])
def test_an_environment_that_does_not_work_is_made_again(machine, damage):
  machine.add("3.12")
  machine.make_environment()
  inside = machine.folder / "env/bin/python"
  if damage == "unsupported":  # made by an earlier make, say
    imitate(inside, "3.10")
    (machine.folder / "env/made-with").unlink()
  elif damage == "no pip":
    imitate(inside, "3.12", without="pip")
  elif damage == "upgraded":
    imitate(inside, "3.13")
  else:
    inside.unlink()
    if damage == "unrecorded":
      (machine.folder / "env/made-with").unlink()
  assert "== Making env with Python 3.12" in machine.make_environment().stdout
  assert (machine.folder / "env/made-with").read_text().startswith("3.12")
  assert machine.make_environment().stdout == ""


@pytest.fixture
def clone(machine):
  """The machine, in a clone of the repository."""
  if not (shutil.which("make") and shutil.which("bash")):
    pytest.skip("no make, or no bash")
  for name in ("Makefile", "setup.cfg", "pyproject.toml", "requirements.txt"):
    shutil.copy(ROOT / name, machine.folder)
  for name in ("tools", ".ci"):
    shutil.copytree(ROOT / name, machine.folder / name)
  return machine


def test_make_installs_once_for_each_environment_and_choice_of_extras(clone):
  older = clone.add("3.11")
  clone.add("3.13")

  def installed(target, *settings):
    (clone.folder / "log").write_text("")
    result = clone.run("make", target, *settings)
    assert result.returncode == 0, result.stderr
    return re.findall(r"pip .* (-r .*|-e .*)", (clone.folder / "log").read_text())

  package, tools = "-r requirements.txt", "-e .[tfds,dev]"
  assert installed("check") == [package, tools]
  assert installed("check") == []
  assert installed("check", "EXTRAS=dev,torch") == ["-e .[dev,torch]"]
  assert installed("check", f"PYTHON={older}") == [package, tools]
  assert installed("check") == []
  assert installed("check", "VENV=other") == [package, tools]
  assert (clone.folder / ".venv/made-with").read_text().startswith("3.11")
  assert (clone.folder / "other/made-with").read_text().startswith("3.13")


def run_ci(clone, *versions, failing=()):
  for version in versions:
    clone.add(version)
  for version in failing:
    (clone.folder / f"fail-{version}").touch()
  result = clone.run("bash", ".ci/run")
  tested = re.findall(r"(\S+) pytest", (clone.folder / "log").read_text())
  return result.returncode, tested, result.stdout.partition("== What ran\n")[2].splitlines()


@pytest.mark.parametrize("failing", [(), ("3.13",), ("3.11",), ("3.11", "3.13")])
def test_ci_tests_both_ends_and_fails_if_either_does(clone, failing):
  status, tested, report = run_ci(clone, "3.11", "3.12", "3.13", failing=failing)
  assert (status, tested) == (bool(failing), ["3.13", "3.11"])
  results = ["FAILED" if version in failing else "passed" for version in tested]
  assert report == [
    f"newest: {results[0]} in 0 min with Python 3.13",
    "jax==0.3.13",
    f"oldest: {results[1]} in 0 min with Python 3.11",
    "jax==0.3.11",
  ]


@pytest.mark.parametrize(
  ("version", "missing"),
  [
    ("3.13", "oldest: not run, Python 3.11 was not found"),
    ("3.11", "newest: not run, Python 3.13 and 3.12 were not found"),
  ],
)
def test_ci_tests_the_end_that_it_finds_and_reports_the_other(clone, version, missing):
  status, tested, report = run_ci(clone, version)
  assert (status, tested) == (0, [version])
  assert missing in report


def test_ci_fails_without_any_python(clone):
  assert clone.run("bash", ".ci/run").returncode == 1


def test_requirements_without_bounds_keep_what_the_package_needs():
  declared = [
    "jax<0.13,>=0.10",
    "torch==2.13.0; extra == 'torch'",
    "ruff~=0.17.0; extra == 'dev'",
    "moto[s3,server]!=5.1,>=5; extra == 'dev'",
    "gcsfs; extra == 'bucket'",
    "winner; sys_platform == 'absent'",
  ]
  tool = runpy.run_path(str(ROOT / "tools/unbounded_requirements.py"))
  assert tool["unbounded"](declared, ["dev", "torch"]) == [
    "jax>=0.10",
    "torch",
    "ruff",
    "moto[s3,server]!=5.1,>=5",
  ]
