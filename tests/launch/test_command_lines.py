"""The lines that launchers print: a shell that reads them starts exactly the command."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from resnet_jax.launch.commands import Commands
from resnet_jax.launch.job import Job
from resnet_jax.launch.local import Local

NASTY = [
  "two words",
  "quote ' and \" both",
  "; touch injected; #",
  "$(touch injected) `touch injected` $HOME",
  "& touch injected |",
  "a\nnew line; touch injected",
  "back\\slash",
  "*",
  "~",
  "!!",
  "",
  "é漢",
]


def job(word: str) -> Job:
  workdir = pathlib.Path(f"runs {word}/000")
  arguments = ["train", "--config", f"{word}.py:{word}", "--workdir", str(workdir)]
  return Job("000", workdir, {}, [*arguments, f"--config.data.data_dir={word}", word], 10)


@pytest.fixture
def shell(tmp_path):
  """Runs a line with `sh -c`, all programs in it being ones that tell their arguments."""
  tells = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
  for name in ("resnet-jax", "gcloud"):
    program = tmp_path / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(tells)
    program.chmod(0o755)
  path = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
  (tmp_path / "cwd").mkdir()

  def shell(line: str) -> list[str]:
    out = subprocess.run(
      ["sh", "-c", line],
      cwd=tmp_path / "cwd",
      env=os.environ | path,
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    assert list((tmp_path / "cwd").iterdir()) == []
    return json.loads(out)

  return shell


@pytest.mark.parametrize("word", NASTY)
def test_no_value_and_no_path_can_inject_a_command(word, shell):
  run = job(word)
  (line,) = Commands().lines([run])
  assert shell(line) == list(run.arguments)


@pytest.mark.parametrize("word", NASTY)
def test_through_gcloud_and_the_shell_of_a_tpu_s_hosts_neither(word, shell):
  run = job(word)
  (line,) = Commands(tpu=f"pod {word}", zone="us-central2-b").lines([run])
  *ssh, command = shell(line)
  names = ["compute", "tpus", "tpu-vm", "ssh", f"pod {word}", "--worker=all"]
  assert ssh == [*names, "--zone", "us-central2-b"]
  assert shlex.split(line)[-1] == command
  command = command.removeprefix("--command=")
  assert shlex.split(command) == ["resnet-jax", *run.arguments, "--distributed"]
  assert shell(command) == [*run.arguments, "--distributed"]


@pytest.mark.parametrize("word", NASTY)
def test_in_the_lines_for_several_processes_neither(word, shell):
  run = job(word)
  lines = Commands(processes=3, coordinator=f"host {word}:1234").lines([run, run])
  assert len(lines) == 6
  for index, line in enumerate(lines):
    several = ["--coordinator", f"host {word}:1234", "--processes", "3", "--process"]
    assert shell(line) == [*run.arguments, *several, str(index % 3)]


@pytest.mark.parametrize("word", NASTY)
def test_a_dry_run_of_local_prints_the_command_that_is_run(word, shell, tmp_path):
  run = job(word)
  lines = Local(program=["resnet-jax"]).lines([run])
  assert lines[0].startswith("#")
  assert shell("\n".join(lines)) == list(run.arguments)


def test_all_launchers_give_the_same_arguments():
  run = job("x")
  (plain,) = Commands().lines([run])
  assert shlex.split(plain)[1:] == shlex.split(Local().lines([run])[-1])[3:]
