"""The Slurm launcher without Slurm: what it would submit, and stand-ins for Slurm's commands."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest
from test_command_lines import NASTY

from resnet_jax.errors import UserError
from resnet_jax.launch.job import Ending, Job
from resnet_jax.launch.slurm import Slurm
from resnet_jax.launch.slurm_script import user_options

# Takes the place of each of Slurm's commands: writes down its words, and answers what a file says.
STAND_IN = """
import json, os, pathlib, sys
folder = pathlib.Path(__file__).parent
name = pathlib.Path(sys.argv[0]).name
with (folder / (name + ".calls")).open("a") as file:
  print(json.dumps(sys.argv[1:]), file=file)
answers = (folder / (name + ".answers")).read_text().split("\\n--\\n")
asked = len((folder / (name + ".calls")).read_text().splitlines())
answer = answers[min(asked, len(answers)) - 1]
if answer.startswith("!"):
  sys.exit(answer[1:])
print(answer, end="\\n" if answer else "")
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
  """Sets what Slurm's commands answer, one call after another; a ! before an error."""
  folder = tmp_path / "bin"
  folder.mkdir()
  monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

  def commands(**answers: list[str]) -> None:
    for name, texts in answers.items():
      program = folder / name
      program.write_text(f"#!{sys.executable} -S\n{STAND_IN}")
      program.chmod(0o755)
      (folder / f"{name}.answers").write_text("\n--\n".join(texts))

  return commands


def calls(tmp_path, name: str) -> list[list[str]]:
  path = tmp_path / "bin" / f"{name}.calls"
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def launcher(tmp_path, **options) -> Slurm:
  return Slurm(tmp_path, poll_seconds=0.01, **options)


@pytest.mark.parametrize("word", NASTY)
@pytest.mark.parametrize("processes", [1, 2])
def test_no_value_and_no_path_can_inject_a_command_into_the_script(word, processes, tmp_path):
  tells = f"#!{sys.executable} -S\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
  (tmp_path / "bin").mkdir()
  (tmp_path / "bin" / "srun").write_text(tells)
  (tmp_path / "bin" / "srun").chmod(0o755)
  folder = tmp_path / f"runs {word}"
  jobs = []
  for index in (3, 12):
    workdir = folder / f"{index:03d}"
    arguments = ["train", "--config", f"{word}.py:{word}", "--workdir", str(workdir)]
    arguments += [f"--config.data.data_dir={word}", word, str(index)]
    jobs.append(Job(workdir.name, workdir, {}, arguments, 10))
  slurm = Slurm(folder, processes=processes, program=[f"program {word}"])
  text = slurm._text(jobs)
  if "\\" in word:
    with pytest.raises(UserError, match="backslash"):
      slurm.lines(jobs)
  else:
    command, _, script = "\n".join(slurm.lines(jobs)).partition("\n# slurm.sh:\n")
    assert shlex.split(command)[-1] == str(folder / "slurm.sh")
    assert script + "\n" == text
  (tmp_path / "cwd").mkdir()
  text = text.replace(f"cd -- {os.getcwd()}", f"cd -- {tmp_path / 'cwd'}")
  (tmp_path / "script").write_text(text)
  for job, index in zip(jobs, (3, 12), strict=True):
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index)}
    done = subprocess.run(
      ["bash", tmp_path / "script"],
      env=os.environ | variables | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
      capture_output=True,
      text=True,
      check=True,
    )
    # The launcher's own remark is one line, whatever the words hold.
    remark, words = done.stdout.splitlines()
    assert remark.startswith("# ")
    several = ["--distributed"] if processes == 2 else []
    assert json.loads(words)[3:] == [f"program {word}", *job.arguments, *several]
    assert json.loads(words)[0] == f"--ntasks={processes}"
    assert done.stderr == ""
  assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize("word", NASTY)
def test_the_name_of_the_job_is_plain_and_that_of_the_directory_alone(word, tmp_path):
  name = Slurm(tmp_path / f"runs {word}x").name
  assert name.replace("_", "").replace("-", "").replace(".", "").isalnum()
  assert name.isascii()
  assert name == Slurm(tmp_path / "y" / ".." / f"runs {word}x").name
  assert name != Slurm(tmp_path / "y" / f"runs {word}x").name


def test_what_is_not_finished_is_submitted_as_one_array(make_job, tmp_path):
  jobs = [make_job(i) for i in (0, 1, 2, 3, 5, 1000)]
  (jobs[1].workdir / "checkpoints" / "10").mkdir(parents=True)
  options = user_options("--partition=gpu --gres 'gpu:1' --signal=TERM@600")
  lines = launcher(tmp_path, parallel=4, options=options).lines(jobs)
  assert lines[0] == "# run 001 is finished"
  words = shlex.split(lines[1])
  assert "--array=0,2-3,5,1000%4" in words
  assert words[-5:] == [*options, str(tmp_path / "slurm.sh")]
  assert "#!/bin/bash" in lines
  assert not (tmp_path / "slurm.sh").exists()


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("--array=0-3", "--array is set by the sweep itself"),
    ("--arr 0-3", "--arr is set"),
    ("-a0-3", "-a0-3 is set"),
    ("--time=1 -o log", "-o is set"),
    ("-n 4", "--processes says how many"),
    ("--ntasks=4", "--processes says how many"),
    ("--no-requeue", "--no-requeue is set"),
    ("--wrap=x", "--wrap is set"),
    ("--signal=B:USR1@60", "write --signal=TERM@SECONDS"),
    ("--signal TERM@60", "write --signal=TERM@SECONDS"),
    ("--comment='x", "No closing quotation"),
  ],
)
def test_options_of_sbatch_that_the_sweep_sets_are_refused(text, words):
  with pytest.raises(UserError, match="--sbatch") as refused:
    user_options(text)
  assert words in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
  "text",
  ["", "-p gpu -N2 -t 1:00", "--ntasks-per-node=4 --wait-all-nodes=1", "--comment='a b'", "-A x"],
)
def test_other_options_of_sbatch_are_passed_on(text):
  assert user_options(text) == shlex.split(text)


def test_without_slurm_one_line_says_what_is_missing(make_job, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path / "none"))
  with pytest.raises(UserError, match="sbatch and squeue not found: start the sweep on a login"):
    launcher(tmp_path).launch([make_job(0)])


def test_a_sweep_that_is_finished_needs_no_slurm(make_job, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path / "none"))
  job = make_job(0)
  (job.workdir / "checkpoints" / "10").mkdir(parents=True)
  assert launcher(tmp_path).launch([job]) == Ending()


def test_what_sbatch_and_squeue_refuse_is_said_in_one_line(make_job, tmp_path, commands):
  refusal = "sbatch: error: Batch job submission failed: Invalid partition name specified"
  commands(squeue=[""], sbatch=[f"!sbatch: error: invalid partition specified: x\n{refusal}"])
  with pytest.raises(UserError) as refused:
    launcher(tmp_path).launch([make_job(0)])
  assert str(refused.value) == (
    "sbatch failed: error: invalid partition specified: x; error: Batch job submission failed: "
    "Invalid partition name specified"
  )
  commands(squeue=["!squeue: error: Unable to contact slurm controller"], sbatch=["12"])
  with pytest.raises(UserError, match="squeue failed: error: Unable to contact"):
    launcher(tmp_path).launch([make_job(0)])
  assert len(calls(tmp_path, "sbatch")) == 1


def test_a_squeue_that_fails_for_a_while_ends_nothing(make_job, tmp_path, commands, capsys):
  error = "!slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
  running = "12|0|RUNNING|None"
  commands(
    squeue=["", running, error, error, running, "12|0|FAILED|NonZeroExitCode"], sbatch=["12"]
  )
  ending = launcher(tmp_path).launch([make_job(0)])
  assert ending == Ending({"000": "failed"})
  captured = capsys.readouterr()
  assert captured.err.count("Unable to contact") == 1
  assert "run 000 (act=finish, seed=0): running, job 12_0" in captured.out


def test_runs_that_are_in_the_queue_are_not_submitted_again(make_job, tmp_path, commands):
  jobs = [make_job(i) for i in range(4)]
  (jobs[0].workdir / "checkpoints" / "10").mkdir(parents=True)
  queue = [
    "12|0|COMPLETED|None\n12|1|RUNNING|None\n12|2|PENDING|Resources\n12|3|CANCELLED|None",
    # The third is done meanwhile, of the second and fourth Slurm no longer knows.
    "12|2|COMPLETED|None",
  ]
  commands(squeue=queue, sbatch=["13;cluster"])
  ending = launcher(tmp_path).launch(jobs)
  (call,) = calls(tmp_path, "sbatch")
  assert "--array=3" in call
  assert ending.failures["001"] == "not in the queue"
  assert ending.failures["002"] == "completed"
  assert ending.failures["003"] == "not in the queue"
  assert "000" not in ending.failures


def test_of_two_arrays_the_task_that_has_not_ended_counts(make_job, tmp_path, commands):
  queue = ["9|0|RUNNING|None\n8|0|FAILED|None", "8|0|FAILED|None\n9|0|TIMEOUT|None"]
  commands(squeue=queue, sbatch=["!never"])
  job = make_job(0)
  job.workdir.mkdir()
  (job.workdir / "log.txt").write_text("what it said\n# 2026: a remark\n")
  assert launcher(tmp_path).launch([job]) == Ending({"000": "timeout: what it said"})
  assert calls(tmp_path, "sbatch") == []


def test_a_stop_leaves_the_array_alone_and_says_how_to_end_it(make_job, tmp_path, commands, capsys):
  commands(squeue=["", "12|0|RUNNING|None"], sbatch=["12"], scancel=[""])
  stop = launcher(tmp_path, stops=lambda: len(calls(tmp_path, "squeue")) - 1)
  assert stop.launch([make_job(0)]) == Ending(interrupted=True)
  assert "job 12 goes on; scancel 12 ends it" in capsys.readouterr().err
  assert calls(tmp_path, "scancel") == []


def test_detached_it_submits_and_returns(make_job, tmp_path, commands, capsys):
  commands(squeue=[""], sbatch=["12"])
  jobs = [make_job(0), make_job(1)]
  assert launcher(tmp_path, detach=True).launch(jobs) == Ending()
  assert (len(calls(tmp_path, "sbatch")), len(calls(tmp_path, "squeue"))) == (1, 1)
  assert "job 12: 2 runs submitted" in capsys.readouterr().out
  assert pathlib.Path(tmp_path / "slurm.sh").read_text().startswith("#!/bin/bash")
