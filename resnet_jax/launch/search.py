"""A search: the trials of an Optuna study, each a run, chosen by what became of those before it.

DIR/study.log      Optuna's journal, which several processes may write: the study and its trials
DIR/000, 001, …    a trial's run each, by its number

A trial belongs to the worker that the journal names from its first line on; nobody else trains it
while that one is alive.
"""

import dataclasses
import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from resnet_jax.errors import UserError
from resnet_jax.launch.board import describe
from resnet_jax.launch.job import PROGRAM, Job
from resnet_jax.launch.outcome import write_outcome
from resnet_jax.launch.resolving import Checker, named_fields, resolve, train_arguments
from resnet_jax.launch.search_file import SearchFile
from resnet_jax.launch.sweep_file import Variation
from resnet_jax.launch.workers import Worker, alone
from resnet_jax.run.config import differences, to_json
from resnet_jax.run.records import read_records
from resnet_jax.run.workdir import check_claim
from resnet_jax.training.config import Config, changeable

JOURNAL = "study.log"
_STUDY = "search"


@dataclasses.dataclass
class _UnderWay:
  """A trial whose run this process trains.

  Attributes:
    trial: It, with the study that it was made in.
    job: Its run.
    judged: The last step that the pruner was asked about.
  """

  trial: Trial
  job: Job
  judged: int = 0


class Search:
  """The trials of a search file in a directory, as a stream of runs; within `with`."""

  def __init__(self, file: str, directory: pathlib.Path, count: int, arguments: Sequence[str] = ()):
    """Checks the file by a trial that is not recorded; writes nothing.

    Args:
      file: A search file, or the name of a built-in one.
      directory: The search's directory.
      count: How many trials there are to be, with those that are there already.
      arguments: `--config.FIELD=VALUE` arguments for every run, after those of the file.

    Raises:
      UserError: The file has a mistake, or the directory holds something else.
    """
    self._file, self._directory, self._count = SearchFile(file), directory, count
    self._require_free()
    self._arguments = list(arguments)
    self._checker = Checker(needs_data=True)
    self._worker = Worker(directory)
    self._under_way: dict[str, _UnderWay] = {}
    self._metric = ""
    # The very one that trial 0 becomes: nothing came before either.
    study = optuna.create_study(sampler=self._file.sampler(0), pruner=self._file.pruner())
    trial = study.ask()
    try:
      variation = self._file.suggest(trial)
      config, steps = self._check(variation)
    except UserError as error:
      first = Job("no parameters", directory, trial.params, [], None)
      raise UserError(f"{file}, with {describe(first)}: {error}") from None
    self._metric = config.checkpoint.metric
    self._settings = {
      "file": str(file),
      "seed": self._file.seed,
      "metric": self._metric,
      "arguments": self._arguments,
      "experiment": self._base(),
    }
    self._free = changeable(config)
    self.first = self._job("000", trial.params, variation, steps)

  def __enter__(self) -> "Search":
    with alone(self._directory):
      # An open lock, made for NFS 3 and later, and not Optuna's default, a link to the journal:
      # where that was left by a killed process its age is looked up through a relative path, which
      # leads nowhere, and all wait for ever.
      path = str(self._directory / JOURNAL)
      backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
      self._storage = optuna.storages.JournalStorage(backend)
      self._study = optuna.create_study(
        storage=self._storage, study_name=_STUDY, load_if_exists=True
      )
      self._require_same()
    self._worker.begin()
    return self

  def __exit__(self, *_: object) -> None:
    unfinished = [t for t in self._study.get_trials(deepcopy=False) if not t.state.is_finished()]
    self._worker.end([_owner(trial) for trial in unfinished])

  def next(self) -> tuple[Job, str] | None:
    """A trial of this worker's, begun or new; None if all are somebody's."""
    while True:
      trials = self._study.get_trials(deepcopy=False)[: self._count]
      for trial in trials:
        known = trial.state.is_finished() or _name(trial) in self._under_way
        if known or not self._worker.is_here(_owner(trial)):
          continue
        now = self._storage.get_trial(trial._trial_id)
        if not now.state.is_finished():  # As it may be by now, and therefore its worker gone.
          return self._begin(now)
      if len(trials) >= self._count:
        return None
      # Where two do so at once, one of them has made a trial beyond the last: it stays as it is,
      # for a search that is made longer.
      attributes = {"worker": self._worker.name}
      waiting = optuna.create_trial(state=TrialState.WAITING, user_attrs=attributes)
      self._study.add_trial(waiting)

  def look(self, job: Job) -> str:
    """Reports what a run has recorded; says why it is to be stopped, if the pruner wants that."""
    under_way = self._under_way.get(job.name)
    if under_way is None:
      return ""
    for step, value in sorted(recorded_values(job.workdir, self._metric).items()):
      if step <= under_way.judged or (job.steps and step >= job.steps):
        continue
      self._report(under_way, {step: value})
      under_way.judged = step
      if under_way.trial.should_prune():
        # Before the run hears of it: whatever is killed from now on, it is not trained further.
        under_way.trial.study.tell(under_way.trial, state=TrialState.PRUNED)
        del self._under_way[job.name]
        return f"at step {step:,}, {metric_words(self._metric, value)}"
    return ""

  def ended(self, job: Job, failure: str) -> None:
    """Tells the study what became of a trial."""
    under_way = self._under_way.pop(job.name)
    values = recorded_values(job.workdir, self._metric)
    self._report(under_way, values)
    if not failure and not values:
      failure = f"it has recorded no validation {self._metric}"
    if failure:
      under_way.trial.set_user_attr("failure", failure)
      under_way.trial.study.tell(under_way.trial, state=TrialState.FAIL)
    else:
      under_way.trial.study.tell(under_way.trial, min(values.values()))

  def summary(self) -> str:
    """Writes and gives what came of all trials, those of other workers too."""
    with alone(self._directory):
      trials = self._study.get_trials(deepcopy=False)
      begun = [trial for trial in trials if trial.state != TrialState.WAITING]
      pruned = [_name(trial) for trial in begun if trial.state == TrialState.PRUNED]
      jobs = [self._recorded(trial) for trial in begun]
      text = write_outcome(self._directory, jobs, self.failures(), pruned)
    lines = [text]
    for trial in begun:
      holder = self._worker.holder(_owner(trial))
      if trial.state == TrialState.RUNNING and holder and _name(trial) not in self._under_way:
        lines.append(f"trial {_name(trial)} is under way: {holder}")
    done = [trial for trial in begun if trial.state == TrialState.COMPLETE]
    if done:
      best = min(done, key=lambda trial: (trial.value or 0.0, trial.number))
      job = self._recorded(best)
      lines.append(
        f"best trial: {job.name} ({describe(job)}), {metric_words(self._metric, best.value)}: "
        f"{shlex.join([*PROGRAM, *job.arguments])}"
      )
    return "\n".join(lines)

  def failures(self) -> dict[str, str]:
    """What the trials that failed last said, by name."""
    return {
      _name(trial): trial.user_attrs.get("failure", "")
      for trial in self._study.get_trials(deepcopy=False)
      if trial.state == TrialState.FAIL
    }

  def _require_free(self) -> None:
    """Raises a UserError if the directory holds something that is no search."""
    directory = self._directory
    if directory.exists() and not directory.is_dir():
      raise UserError(f"workdir {directory} is not a directory: choose another one")
    for name, what in (("sweep.json", "of a sweep"), ("config.json", "of a run")):
      if (directory / name).exists():
        raise UserError(
          f"workdir {directory} is the directory {what}, not of a search: choose another one"
        )
    if not (directory / JOURNAL).exists() and (directory / "000").exists():
      raise UserError(f"workdir {directory} holds runs and no {JOURNAL}: choose another one")

  def _begin(self, frozen: FrozenTrial) -> tuple[Job, str]:
    # Optuna has no public way to go on with a trial of a known number.
    identity = frozen._trial_id
    if frozen.state == TrialState.WAITING:
      self._storage.set_trial_state_values(identity, TrialState.RUNNING)
    # A study of its own: samplers draw by their number, and Optuna's cache of trials is a study's.
    study = optuna.load_study(
      study_name=_STUDY,
      storage=self._storage,
      sampler=self._file.sampler(frozen.number),
      pruner=self._file.pruner(),
    )
    trial, failure = Trial(study, identity), ""
    if "fields" not in frozen.user_attrs:
      try:
        variation = self._file.suggest(trial)
        config, steps = self._check(variation)
        check_claim(self._directory / _name(frozen), config, changeable(config))
        trial.set_user_attr("steps", steps)
        trial.set_user_attr("experiment", variation.experiment)
        trial.set_user_attr("fields", dict(variation.overrides))
      except UserError as error:
        failure = str(error)
    job = self._recorded(self._storage.get_trial(identity))
    self._under_way[job.name] = _UnderWay(trial, job)
    return job, failure

  def _check(self, variation: Variation) -> tuple[Config, int]:
    """A run's config and number of steps; a UserError if it cannot be one of this search."""
    for name in sorted(named_fields(self._arguments) & variation.overrides.keys()):
      raise UserError(f"--config.{name}: suggest() gives this field; change it there")
    config = resolve(variation, self._arguments)
    run = self._checker.build(config)
    assert run is not None  # The data is here.
    if "validation" not in run.dataset.splits:
      raise UserError(
        f"{run.dataset.name} has no validation split, by which trials are compared: set "
        "data.held_out"
      )
    metric = config.checkpoint.metric
    if self._metric not in ("", metric):
      raise UserError(
        f"checkpoint.metric={metric!r}: the trials before it are compared by {self._metric!r}"
      )
    return config, run.steps

  def _base(self) -> Any:
    """What trials have in common, as far as it is known: the experiment with the arguments."""
    if self._file.experiment is None:
      return None
    return to_json(resolve(Variation(self._file.experiment, {}, {}), self._arguments))

  def _require_same(self) -> None:
    """Records what the search is; raises a UserError if the study in the directory is another."""
    stored = self._study.user_attrs.get("settings")
    if stored is None:
      self._study.set_user_attr("settings", self._settings)
      return
    for name in ("seed", "metric", "experiment"):
      for field, (a, b) in differences({name: stored[name]}, {name: self._settings[name]}).items():
        if field.removeprefix("experiment.") not in self._free:
          raise UserError(
            f"workdir {self._directory} holds another search: {field} is {a!r}, not {b!r}. Choose "
            "another --workdir"
          )

  def _job(
    self, name: str, params: Mapping[str, Any], variation: Variation, steps: int | None
  ) -> Job:
    workdir = self._directory / name
    words = train_arguments(variation, str(workdir), self._arguments)
    return Job(name, workdir, params, words, steps)

  def _recorded(self, trial: FrozenTrial) -> Job:
    """The run of a trial as the study has it; without a command if it is not known or has none."""
    attributes, name = trial.user_attrs, _name(trial)
    if "fields" not in attributes:
      return Job(name, self._directory / name, trial.params, [], None)
    variation = Variation(attributes["experiment"], attributes["fields"], {})
    return self._job(name, trial.params, variation, attributes["steps"])

  def _report(self, under_way: _UnderWay, values: Mapping[int, float]) -> None:
    """Tells the study what a run has recorded, by step, where it does not know it."""
    trial = under_way.trial
    known = self._storage.get_trial(trial._trial_id).intermediate_values
    for step in sorted(values.keys() - known.keys()):
      trial.report(values[step], step)


def metric_words(metric: str, value: float | None) -> str:
  """A value of what is minimised where a config's `checkpoint.metric` is this one."""
  name = metric.replace("accuracy", "error").replace("_", " ")
  return f"validation {name} {value:.4g}" + (" %" if metric.endswith("accuracy") else "")


def recorded_values(workdir: pathlib.Path, metric: str) -> dict[int, float]:
  """By step, what a run has recorded of a validation metric: losses, and errors in percent."""
  values = {}
  for record in read_records(workdir):
    value = record.get(metric)
    if record["split"] == "validation" and isinstance(value, int | float) and math.isfinite(value):
      values[record["step"]] = 100 * (1 - value) if metric.endswith("accuracy") else float(value)
  return values


def _owner(trial: FrozenTrial) -> str:
  """The worker that a trial belongs to; all that somebody has enqueued belong to one of them."""
  return str(trial.user_attrs.get("worker", "enqueued"))


def _name(trial: FrozenTrial) -> str:
  return f"{trial.number:03d}"
