"""The summary: the best run first, as table, CSV and picture; and what is shown meanwhile."""

import csv
import io
import json
import pathlib

import matplotlib.image
import pytest
from rich.console import Console

from resnet_jax.analysis.swept import draw_swept
from resnet_jax.launch.board import Board, describe, progress
from resnet_jax.launch.job import Job
from resnet_jax.launch.outcome import write_outcome

TERMINAL = {"force_terminal": True, "_environ": {"TERM": "xterm"}}


@pytest.fixture
def jobs(tmp_path):
  """Four runs of 10 steps: the best, an unfinished one, a worse one, one without a record."""
  jobs = []
  for index, (rate, accuracies) in enumerate(
    [(0.1, (0.5, 0.9)), (0.2, (0.7,)), (0.3, (0.8, 0.6)), (0.4, ())]
  ):
    workdir = tmp_path / f"{index:03d}"
    shown = {"optimizer.learning_rate": rate, "model.shortcut": "AB"[index % 2], "seed": index}
    jobs.append(Job(workdir.name, workdir, shown, [], 10))
    if accuracies:
      workdir.mkdir()
      (workdir / "config.json").write_text(json.dumps({"seed": index, "model": {"name": "n"}}))
      records = [
        {"step": 5 * (i + 1), "split": "validation", "accuracy": accuracy, "loss": 1.0}
        for i, accuracy in enumerate(accuracies)
      ]
      (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    if len(accuracies) == 2:
      (workdir / "checkpoints" / "10").mkdir(parents=True)
  return jobs


def test_the_summary_has_every_run_the_best_first_and_the_failed_with_what_they_said(
  jobs, tmp_path
):
  text = write_outcome(tmp_path, jobs, {"003": "status 2: it diverged"})
  lines = text.splitlines()
  assert lines[0].split()[:5] == ["run", "learning_rate", "shortcut", "seed", "state"]
  assert [line.split()[0] for line in lines[1:5]] == ["000", "002", "001", "003"]
  assert "10.00 %" in lines[1]
  assert "run 003 failed with status 2: it diverged\n" in f"{text}\n"
  log = tmp_path / "003" / "log.txt"
  log.parent.mkdir(exist_ok=True)
  log.write_text("it diverged\n")
  text = write_outcome(tmp_path, jobs, {"003": "status 2: it diverged"})
  assert f"run 003 failed with status 2: it diverged (all of it: {log})" in text
  rows = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
  assert [row["run"] for row in rows] == ["000", "002", "001", "003"]
  assert [row["state"] for row in rows] == ["finished", "finished", "unfinished", "failed"]
  assert [row["optimizer.learning_rate"] for row in rows] == ["0.1", "0.3", "0.2", "0.4"]
  assert [row["best_validation_error_percent"] for row in rows] == ["10", "20", "30", ""]
  assert [row["failure"] for row in rows] == ["", "", "", "status 2: it diverged"]
  header = (tmp_path / "summary.csv").read_text().splitlines()[0].split(",")
  assert len(header) == len(set(header))
  assert matplotlib.image.imread(tmp_path / "summary.png").ndim == 3


def test_a_sweep_that_has_recorded_nothing_has_a_table_and_no_picture(jobs, tmp_path):
  text = write_outcome(tmp_path, jobs[3:], {})
  assert "not begun" in text
  assert not (tmp_path / "summary.png").exists()


def test_runs_without_validation_are_sorted_by_test_error_if_it_was_measured(jobs, tmp_path):
  for job, accuracy in zip(jobs[:3], (0.5, 0.7, 0.6), strict=True):
    record = {"step": 10, "split": "test", "accuracy": accuracy, "loss": 1.0}
    (job.workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
  text = write_outcome(tmp_path, jobs, {})
  assert [line.split()[0] for line in text.splitlines()[1:5]] == ["001", "002", "000", "003"]


def test_the_picture_has_a_dot_for_each_run_at_its_value():
  fields = {"rate": [0.1, 1.0, 0.1], "kind": ["a", None, "$b_$"], "seed": [0, 1, 2]}
  figure = draw_swept(fields, [3.0, 2.0, float("inf")], "error (%)")
  figure.canvas.draw()
  rate, kind, seed = figure.axes
  assert rate.get_xscale() == "log"
  assert kind.get_xscale() == seed.get_xscale() == "linear"
  dots = {axes.lines[0].get_gid(): axes.lines[0].get_xydata().tolist() for axes in figure.axes}
  assert dots["rate"][:2] == [[0.1, 3.0], [1.0, 2.0]]
  assert [tick.get_text() for tick in kind.get_xticklabels()] == ["a", "none", "$b_$"]
  assert rate.lines[1].get_ydata().tolist() == [3.0, 2.0]


def test_a_run_is_described_by_what_tells_it_from_the_others(jobs):
  assert describe(jobs[1]) == "learning_rate=0.2, shortcut=B, seed=1"
  job = Job(
    "007", jobs[0].workdir, {"config": "cifar10:resnet20", "a.x": None, "b.x": [1, 2]}, [], 1
  )
  assert describe(job) == "cifar10:resnet20, a.x=none, b.x=1, 2"
  assert describe(Job("007", jobs[0].workdir, {}, [], 1)) == "007"


def test_the_progress_of_a_run_is_its_newest_step_and_its_best_error(jobs):
  assert progress(jobs[2].workdir) == (10, pytest.approx(20))
  assert progress(jobs[3].workdir) == (0, None)


def test_a_terminal_has_one_table_with_every_run(jobs):
  console = Console(file=io.StringIO(), **TERMINAL, width=120, height=40)
  with Board(jobs, console) as board:
    board.set(jobs[1], "running")
    board.set(jobs[3], "failed", "status 1: [b]boom[/b]")
  drawn = console.file.getvalue()
  last = drawn[drawn.rindex("fields") :]
  for words in ("000", "learning_rate=0.2", "5 of 10", "30.00 %", "running", "[b]boom[/b]"):
    assert words in last
  assert "0 of 4 finished, 1 failed" in last


def test_a_low_terminal_shows_the_runs_to_which_something_happens():
  nowhere = pathlib.Path("nowhere")
  jobs = [Job(f"{i:03d}", nowhere, {"seed": i}, [], 10) for i in range(50)]
  console = Console(file=io.StringIO(), **TERMINAL, width=100, height=20)
  with Board(jobs, console) as board:
    board.set(jobs[30], "running")
  last = console.file.getvalue()
  last = last[last.rindex("fields") :]
  assert "seed=30" in last
  assert "seed=31" not in last
