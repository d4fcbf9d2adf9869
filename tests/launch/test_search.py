"""Searches: numbers, workers, deaths, pruning and failures of trials; nothing is trained."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from resnet_jax.errors import UserError
from resnet_jax.launch.local import Local
from resnet_jax.launch.slots import Slot
from resnet_jax.launch.sweep import Sweep
from resnet_jax.run.location import LocalDirectory

optuna = pytest.importorskip("optuna", reason="searches need Optuna")

from resnet_jax.launch.search import Search, metric_words, recorded_values  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)

# A worker in a process of its own: FILE DIR TRIALS PARALLEL PROGRAM…
WORKER = """
import pathlib, sys
from resnet_jax.launch.local import Local
from resnet_jax.launch.search import Search
from resnet_jax.launch.slots import Slot
file, folder, count, parallel, *program = sys.argv[1:]
with Search(file, pathlib.Path(folder), int(count)) as search:
  Local([Slot()] * int(parallel), program=program).follow(search)
"""
RANDOM = 'trial.suggest_float("rate", 0.01, 0.4)'


@pytest.fixture
def write(tmp_path):
  """Writes a search file of digits whose learning rate is this expression; gives its path."""

  def write(rate: str = RANDOM, more: str = "", fields: str = "") -> str:
    path = tmp_path / "search file.py"
    path.write_text(
      f'import optuna\nconfig = "digits"\n{more}\n'
      f"def suggest(trial):\n  rate = {rate}\n"
      '  return {"optimizer.learning_rate": rate, "length": "40 steps", '
      f'"model.stage_sizes": (1,), "model.width": 4{fields}}}\n'
    )
    return str(path)

  return write


def rates(*values: float) -> str:
  """Of trials 0, 1, …: given, and yet parameters."""
  return f'trial.suggest_float("rate", *[{list(values)}[trial.number]] * 2)'


def follow(file, folder, count, stub, parallel=1, **more):
  """What this process has done of a search."""
  with Search(file, folder, count) as search:
    return Local([Slot()] * parallel, program=stub, **more).follow(search)


def summary(file, folder) -> str:
  with Search(file, folder, 1) as search:
    return search.summary()


def trials(folder):
  path = str(folder / "study.log")
  backend = optuna.storages.journal.JournalFileBackend(path)
  storage = optuna.storages.JournalStorage(backend)
  return optuna.load_study(study_name="search", storage=storage).trials


def states(folder) -> list[str]:
  return [trial.state.name for trial in trials(folder)]


def params(folder) -> list[float]:
  return [trial.params["rate"] for trial in trials(folder)]


def starts(folder, number: int) -> int:
  return len((folder / f"{number:03d}" / "starts").read_text().splitlines())


def wait_for(condition, seconds: float = 60) -> None:
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


def test_each_trial_is_a_run_and_a_longer_search_adds_what_it_would_have_had(write, tmp_path, stub):
  # Two trials at random; those that follow depend on what came of these.
  sampler = "def sampler(seed): return optuna.samplers.TPESampler(seed=seed, n_startup_trials=2)"
  file = write(more=f"seed = 3\n{sampler}")
  follow(file, tmp_path / "A", 3, stub)
  ending = follow(file, tmp_path / "A", 4, stub)
  assert (dict(ending.failures), ending.interrupted) == ({}, False)
  follow(file, tmp_path / "B", 4, stub)
  assert params(tmp_path / "A") == params(tmp_path / "B")
  assert len(set(params(tmp_path / "A"))) == 4
  assert states(tmp_path / "A") == ["COMPLETE"] * 4
  assert [starts(tmp_path / "A", number) for number in range(4)] == [1] * 4
  for trial in trials(tmp_path / "A"):
    assert trial.value == pytest.approx(100 * trial.params["rate"])
    assert list(trial.intermediate_values) == [10, 20, 30, 40]
  best = min(range(4), key=lambda number: params(tmp_path / "A")[number])
  rate = params(tmp_path / "A")[best]
  last = summary(file, tmp_path / "A").splitlines()[-1]
  assert last.startswith(f"best trial: {best:03d} (rate={rate:.10g}), validation error ")
  assert f"--workdir '{tmp_path}" in last or f"--workdir {tmp_path}" in last
  assert f"--config.optimizer.learning_rate={rate}" in last
  rows = list(csv.DictReader((tmp_path / "A" / "summary.csv").open()))
  assert rows[0]["run"] == f"{best:03d}"
  assert float(rows[0]["rate"]) == pytest.approx(rate)
  assert not list((tmp_path / "A" / "workers").iterdir())


def test_killed_in_the_middle_the_same_trials_go_on_under_their_numbers(write, tmp_path, stub):
  file, folder = write(rates(0.1, 0.51, 0.52, 0.2)), tmp_path / "W"
  process = subprocess.Popen([sys.executable, "-c", WORKER, file, folder, "4", "2", *stub])
  wait_for(lambda: all((folder / f"00{i}" / "metrics.jsonl").exists() for i in (1, 2)))
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert states(folder) == ["COMPLETE", "RUNNING", "RUNNING"]
  for number in (1, 2):
    wait_for((folder / f"00{number}" / "saved").exists)
  follow(file, folder, 4, stub, 2)
  assert states(folder) == ["COMPLETE"] * 4
  assert params(folder) == [0.1, 0.51, 0.52, 0.2]
  assert [starts(folder, number) for number in range(4)] == [1, 2, 2, 1]
  assert [list(trial.intermediate_values) for trial in trials(folder)] == [[10, 20, 30, 40]] * 4
  assert not list((folder / "workers").iterdir())


def test_two_workers_at_once_train_no_trial_twice_and_n_altogether(write, tmp_path, stub):
  file, folder = write(), tmp_path / "W"
  with Search(file, folder, 4) as search:
    other = subprocess.Popen([sys.executable, "-c", WORKER, file, folder, "4", "1", *stub])
    wait_for((folder / "000" / "starts").exists)
    Local(program=stub).follow(search)
  assert other.wait(60) == 0
  # A trial that both made at once is one too many: nobody trains it.
  assert states(folder)[:4] == ["COMPLETE"] * 4
  assert set(states(folder)[4:]) <= {"WAITING"}
  assert [starts(folder, number) for number in range(4)] == [1] * 4
  assert not (folder / "004").exists()
  assert len({trial.user_attrs["worker"] for trial in trials(folder)}) == 2


def test_a_trial_of_a_living_worker_is_left_alone(write, tmp_path, stub):
  file, folder = write(), tmp_path / "W"
  with Search(file, folder, 2) as mine:
    job, _ = mine.next()
    follow(file, folder, 2, stub)
    assert states(folder) == ["RUNNING", "COMPLETE"]
    assert mine.next() is None
    with Search(file, folder, 2) as other:
      assert other.next() is None
      assert f"trial 000 is under way: process {os.getpid()}" in other.summary()
  with Search(file, folder, 2) as other:
    assert other.next() == (job, "")


def test_two_that_make_a_trial_at_once_make_one_too_many_and_nobody_trains_it(write, tmp_path):
  file, folder = write(), tmp_path / "W"
  with Search(file, folder, 1) as one, Search(file, folder, 1) as two:
    for search in (one, two):
      attributes = {"worker": search._worker.name}
      waiting = optuna.create_trial(state=optuna.trial.TrialState.WAITING, user_attrs=attributes)
      search._study.add_trial(waiting)
    assert one.next()[0].name == "000"
    assert (one.next(), two.next()) == (None, None)
  with Search(file, folder, 2) as longer:
    assert [longer.next()[0].name, longer.next()[0].name, longer.next()] == ["000", "001", None]


def test_values_that_were_enqueued_are_tried(write, tmp_path, stub):
  file, folder = write(), tmp_path / "W"
  with Search(file, folder, 1) as search:
    search._study.enqueue_trial({"rate": 0.25})
  follow(file, folder, 2, stub)
  assert params(folder)[0] == 0.25
  assert states(folder) == ["COMPLETE"] * 2


def test_a_bad_run_is_ended_early_and_the_best_trial_is_right(write, tmp_path, stub, capsys):
  pruner = "def pruner(): return optuna.pruners.MedianPruner(n_startup_trials=2)"
  file, folder = write(rates(0.2, 0.3, 0.55, 0.1), pruner), tmp_path / "W"
  ending = follow(file, folder, 4, stub)
  text = summary(file, folder)
  assert dict(ending.failures) == {}
  assert states(folder) == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
  assert (folder / "002" / "saved").exists()
  assert starts(folder, 2) == 1
  assert "run 002 (rate=0.55): pruned, after" in capsys.readouterr().out
  assert "best trial: 003 (rate=0.1), validation error 10 %" in text
  rows = list(csv.DictReader((folder / "summary.csv").open()))
  assert {row["run"]: row["state"] for row in rows}["002"] == "pruned"
  # Told before the run is ended: what is killed then is not begun again.
  follow(file, folder, 4, stub)
  assert starts(folder, 2) == 1


def test_what_was_killed_between_report_and_judgement_is_judged_when_it_goes_on(
  write, tmp_path, stub
):
  pruner = "def pruner(): return optuna.pruners.ThresholdPruner(upper=50)"
  file, folder = write(rates(0.55), pruner), tmp_path / "W"
  with Search(file, folder, 1) as search:
    job, _ = search.next()
    search._under_way["000"].trial.report(71.5, 10)
    job.workdir.mkdir()
    record = {"step": 10, "split": "validation", "accuracy": 0.285}
    (job.workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
  follow(file, folder, 1, stub)
  assert states(folder) == ["PRUNED"]


def test_a_trial_that_fails_or_is_invalid_is_a_failed_one_and_the_search_goes_on(
  write, tmp_path, stub
):
  fields = ', "bn_group": 24 if trial.number == 2 else None, "x" * (trial.number == 3) or "seed": 1'
  file, folder = write(rates(0.1, 0.7, 0.1, 0.1, 0.2), fields=fields), tmp_path / "W"
  ending = follow(file, folder, 5, stub, retries=1)
  assert states(folder) == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE"]
  assert starts(folder, 1) == 2
  assert ending.failures.keys() == {"001", "002", "003"}
  assert ending.failures["001"] == "status 1: training diverged"
  assert "bn_group=24" in ending.failures["002"]
  assert "no field x" in ending.failures["003"]
  # Another call knows them, and tries none again.
  follow(file, folder, 5, stub)
  text = summary(file, folder)
  assert "run 002 failed with bn_group=24" in text
  assert "best trial: 000" in text
  assert starts(folder, 1) == 2


def test_a_stop_saves_the_runs_and_the_same_command_goes_on(write, tmp_path, stub):
  file, folder = write(rates(0.51, 0.1)), tmp_path / "W"
  begun = (folder / "000" / "metrics.jsonl").exists
  ending = follow(file, folder, 2, stub, stops=lambda: int(begun()))
  assert ending.interrupted
  assert states(folder) == ["RUNNING"]
  ending = follow(file, folder, 2, stub)
  assert not ending.interrupted
  assert states(folder) == ["COMPLETE"] * 2
  assert [starts(folder, number) for number in range(2)] == [2, 1]


def test_a_run_that_validates_nothing_has_failed(write, tmp_path):
  with Search(write(), tmp_path / "W", 1) as search:
    job, _ = search.next()
    search.ended(job, "")
    assert "recorded no validation accuracy" in search.failures()["000"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"fields": ', "optimizer.momentun": 0.8'}, r"with rate=.*no field optimizer.momentun"),
    ({"fields": ', "optimizer.momentum": 1.5'}, "optimizer.momentum"),
    ({"rate": "1 / 0"}, "line 5: ZeroDivisionError"),
    ({"more": "def sweep(): yield {}"}, r"both sweep\(\) and suggest\(\)"),
    ({"more": "def sampler(): pass"}, "takes no seed"),
    ({"more": "def sampler(seed): return 3"}, "no sampler of Optuna's"),
    ({"more": "def sampler(seed): return optuna.samplers.GridSampler({})"}, "tries all"),
    ({"more": "def pruner(): return 3"}, "no pruner of Optuna's"),
    ({"more": "seed = -1"}, "seed=-1"),
  ],
)
def test_a_mistake_in_the_file_is_found_before_anything_is_written(
  options, message, write, tmp_path
):
  with pytest.raises(UserError, match=message):
    Search(write(**options), tmp_path / "W", 3)
  assert not (tmp_path / "W").exists()


def test_a_field_that_the_file_gives_cannot_be_given_to_all_trials(write, tmp_path):
  with pytest.raises(UserError, match=r"--config.length: suggest\(\) gives this field"):
    Search(write(), tmp_path / "W", 1, ["--config.length=3 epochs"])


def test_another_search_or_a_sweep_in_the_directory_is_refused(write, tmp_path):
  folder = tmp_path / "W"
  with Search(write(), folder, 1):
    pass
  with Search(write(), folder, 1, ["--config.log_every=2 epochs"]):
    pass  # As runs may.
  for options, arguments, message in (
    ({"more": "seed = 1"}, [], "another search: seed is 0, not 1"),
    ({}, ["--config.batch_size=32"], "another search: experiment.batch_size is 64, not 32"),
    ({}, ["--config.checkpoint.metric=loss"], "another search: metric is 'accuracy', not 'loss'"),
  ):
    with pytest.raises(UserError, match=message), Search(write(**options), folder, 1, arguments):
      pass
  grid = tmp_path / "grid.py"
  grid.write_text('config = "digits"\ndef sweep(): yield {}')
  with pytest.raises(UserError, match="holds a search"):
    Sweep(str(grid), LocalDirectory(folder))
  (tmp_path / "S").mkdir()
  (tmp_path / "S" / "sweep.json").write_text("{}")
  with pytest.raises(UserError, match="of a sweep, not of a search"):
    Search(write(), tmp_path / "S", 1)


def test_errors_are_minimised_in_percent_and_losses_as_they_are(tmp_path):
  records = [
    {"step": 1, "split": "validation", "accuracy": 0.75, "loss": 0.5},
    {"step": 1, "split": "train", "accuracy": 0.25, "loss": 1.5},
    {"step": 2, "split": "validation", "accuracy": None, "loss": 0.25},
  ]
  (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
  assert recorded_values(tmp_path, "accuracy") == {1: 25.0}
  assert recorded_values(tmp_path, "loss") == {1: 0.5, 2: 0.25}
  assert metric_words("ema_top5_accuracy", 2.5) == "validation ema top5 error 2.5 %"
  assert metric_words("loss", 0.25) == "validation loss 0.25"
