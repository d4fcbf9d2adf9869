"""A run that is killed at any moment and started again ends with the bits of one never killed."""

import collections
import math
import os
import pathlib
import signal
import time

import killing
import numpy as np
import pytest
from killing import (
  BETWEEN,
  DELETION,
  END,
  EVALUATION,
  FIRST_STEP,
  RESTORE,
  SAVE,
  START_UP,
  STEP,
  Moment,
  Process,
  Reference,
  Settings,
)

from resnet_jax.commands.process import EXIT_PREEMPTED

# Of the long tests; each kill takes about as long as a start and a few steps.
KILLS = int(os.environ.get("RESNET_JAX_KILLS", "100"))
RANDOM_KILLS = int(os.environ.get("RESNET_JAX_RANDOM_KILLS", "20"))
SIGTERMS = int(os.environ.get("RESNET_JAX_SIGTERMS", "20"))
SEED = int(os.environ.get("RESNET_JAX_KILLS_SEED", "0"))
# Of a hundred kills; more than is asked for where the phase is short.
QUOTAS = {
  START_UP: 10,
  RESTORE: 10,
  FIRST_STEP: 10,
  STEP: 15,
  EVALUATION: 10,
  BETWEEN: 12,
  SAVE: 22,
  DELETION: 6,
  END: 5,
}


class Runs:
  """Runs one after another, each stopped again and again until it comes to its end."""

  def __init__(self, reference: Reference, folder: pathlib.Path):
    self.reference, self.settings = reference, reference.settings
    self.counts: collections.Counter[str] = collections.Counter()
    self.resumed: set[int] = set()
    self.ended = 0
    self._folder, self._stops, self._begun = folder, [], time.monotonic()

  @property
  def workdir(self) -> pathlib.Path:
    return self._folder / f"run{self.ended}"

  def draw(self, generator: np.random.Generator, target: str) -> Moment:
    return self.reference.draw(generator, target, self.workdir)

  def kill(self, moment: Moment) -> str | None:
    """Kills at a moment; gives the phase that this met, None if the run ended before."""
    with Process(self.settings, self.workdir) as process:
      if moment.come(process):
        process.send(signal.SIGKILL)
      status, met = process.wait(), process.phase()
      assert status in (0, -signal.SIGKILL), process.output()
      return self._stopped(process, "kill", met, ended=status == 0)

  def terminate(self, moment: Moment) -> str | None:
    """Sends SIGTERM at a moment, as `kill` does, and sees that the process ends as it has to."""
    with Process(self.settings, self.workdir) as process:
      came, met = moment.come(process), process.phase()
      earlier = killing.look(self.workdir)
      process.send(signal.SIGTERM)
      later = killing.look(self.workdir)
      status = process.wait()
      if came:
        self._require_saved(process, status, met, earlier, later)
      return self._stopped(process, "SIGTERM", f"{met} ({status})", ended=status == 0)

  def finish(self) -> None:
    """Lets the run that was stopped last come to its end."""
    with Process(self.settings, self.workdir) as process:
      status = process.wait()
      assert status == 0, process.output()
      self._stopped(process, "none", "", ended=True)

  def histogram(self) -> str:
    seconds, number = time.monotonic() - self._begun, self.counts.total()
    lines = [f"  {count:4d}  {met}" for met, count in sorted(self.counts.items())]
    return "\n".join(
      [
        f"{number} in {self.ended} runs, {seconds:.0f} s, {seconds / max(number, 1):.1f} s each",
        *lines,
      ]
    )

  def _require_saved(
    self,
    process: Process,
    status: int,
    met: str,
    earlier: killing.Sight,
    later: killing.Sight,
  ) -> None:
    now, begun = killing.look(self.workdir), process.before
    told = (met, status, begun, earlier, later, now, process.output())
    # What it found recorded beyond its checkpoint is not its own.
    least, most = (
      max(sight.step, sight.saved) if sight.starts > begun.starts else begun.saved
      for sight in (earlier, later)
    )
    match status:
      case 0:
        assert most + self.settings.log_every >= self.settings.length, told
      case 75 if now.starts == begun.starts:
        assert "SIGTERM came before the training" in process.output(), told
      case 75:
        assert status == EXIT_PREEMPTED
        assert "saved after SIGTERM" in process.output(), told
        # After the step under way, the next one; of which only each `log_every`-th can be seen.
        assert least <= now.saved <= most + self.settings.log_every, told
        assert now.step <= now.saved, told
        assert not now.saving, told
      case _:
        # Until it listens, which is its first act once Python has started.
        assert (status, now.starts) == (-signal.SIGTERM, begun.starts), told

  def _stopped(self, process: Process, how: str, met: str, ended: bool) -> str | None:
    saved = process.before.saved
    if ended or process.phase() not in (START_UP, RESTORE, FIRST_STEP):
      assert (f"resumed after step {saved} of" in process.output()) == (saved > 0)
      self.resumed.add(saved)
    self._stops.append((how, met, f"from {saved} to {killing.look(self.workdir).saved}"))
    print(self.workdir.name, *self._stops[-1], sep="  ", flush=True)
    try:
      if ended:
        self.reference.require_same(self.workdir)
      else:
        self.reference.require_kept(self.workdir)
    except AssertionError as error:
      error.add_note(f"{self.workdir}: {self._stops}")
      raise
    if ended:
      self.ended += 1
      self._stops = []
      return None
    self.counts[met] += 1
    return met


def kill_in(runs: Runs, targets: list[str], generator: np.random.Generator) -> None:
  """Kills until each target was met as often as it is listed, whichever was aimed at."""
  left, attempts = list(targets), 0
  while left:
    attempts += 1
    assert attempts <= 2 * len(targets) + 20, f"not met: {left}\n{runs.histogram()}"
    met = runs.kill(runs.draw(generator, left[0]))
    if met in left:
      left.remove(met)


def test_a_run_killed_at_random_moments_ends_with_the_same_bits_and_records(tmp_path):
  generator = np.random.default_rng(SEED)
  # In this order each phase is ahead, and saves are far enough apart for the others to be seen.
  settings = Settings(length=76, save_every=26)
  runs = Runs(Reference(settings, tmp_path / "reference"), tmp_path)
  kill_in(runs, [FIRST_STEP], generator)
  # In the second save: the run goes on from the first.
  runs.kill(Moment(SAVE, 2, generator.uniform(0, 0.005)))
  runs.finish()
  print(runs.histogram())
  assert max(runs.resumed) > 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
  return Reference(Settings(), tmp_path_factory.mktemp("reference") / "run")


@pytest.mark.long
def test_a_run_that_gets_sigterm_saves_within_a_step_and_ends_with_the_same_bits_and_records(
  tmp_path, capsys
):
  generator = np.random.default_rng(SEED)
  with capsys.disabled():
    # Each step is recorded, so that each can be seen.
    runs = Runs(Reference(Settings(log_every=1), tmp_path / "reference"), tmp_path)
    while runs.counts.total() < SIGTERMS:
      runs.terminate(runs.draw(generator, generator.choice(killing.PHASES)))
    runs.finish()
    print(f"\nSIGTERM by phase: {runs.histogram()}")


@pytest.mark.long
def test_a_run_killed_in_every_phase_ends_with_the_same_bits_and_records(
  reference, tmp_path, capsys
):
  generator = np.random.default_rng(SEED)
  targets = [t for t, share in QUOTAS.items() for _ in range(math.ceil(share * KILLS / 100))]
  generator.shuffle(targets)
  runs = Runs(reference, tmp_path)
  with capsys.disabled():
    kill_in(runs, targets, generator)
    runs.finish()
    print(f"\nkills by phase: {runs.histogram()}")


@pytest.mark.long
def test_a_run_killed_at_any_time_ends_with_the_same_bits_and_records(reference, tmp_path, capsys):
  generator = np.random.default_rng(SEED)
  runs = Runs(reference, tmp_path)
  with capsys.disabled():
    while runs.counts.total() < RANDOM_KILLS:
      runs.kill(reference.draw_any(generator))
    runs.finish()
    print(f"\nkills at any time: {runs.histogram()}")
