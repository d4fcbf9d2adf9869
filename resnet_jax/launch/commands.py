"""The launcher that prints: plain commands for any scheduler, or for the hosts of a TPU pod."""

import dataclasses
import shlex
from collections.abc import Sequence

from resnet_jax.launch.job import PROGRAM, Ending, Job


@dataclasses.dataclass(frozen=True)
class Commands:
  """Prints one command for each run, or for each process of it.

  Attributes:
    tpu: Name of a TPU VM, on all of whose hosts the command is to be started through gcloud.
    zone: Its zone.
    processes: How many processes train a run together; None for one that says nothing of others.
    coordinator: HOST:PORT where the first of them listens, as all see it.
  """

  tpu: str | None = None
  zone: str | None = None
  processes: int | None = None
  coordinator: str | None = None

  def lines(self, jobs: Sequence[Job]) -> list[str]:
    """The lines of each run that is not finished; a newline in a value stands quoted in it."""
    return [line for job in jobs if not job.is_finished() for line in self._lines(job)]

  def launch(self, jobs: Sequence[Job]) -> Ending:
    """Prints them."""
    for line in self.lines(jobs):
      print(line)
    return Ending()

  def _lines(self, job: Job) -> list[str]:
    words = [*PROGRAM, *job.arguments]
    if self.tpu is not None:
      return [self._through_gcloud(self.tpu, words)]
    if self.processes is None:
      return [shlex.join(words)]
    several = ["--coordinator", str(self.coordinator), "--processes", str(self.processes)]
    return [
      shlex.join([*words, *several, "--process", str(index)]) for index in range(self.processes)
    ]

  def _through_gcloud(self, tpu: str, words: Sequence[str]) -> str:
    # Each host starts the same command; which of them it is, JAX finds out.
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", tpu, "--worker=all"]
    zone = ["--zone", self.zone] if self.zone else []
    # Quoted for the shell of the hosts, and then, with all else, for the one that reads this line.
    return shlex.join([*ssh, *zone, f"--command={shlex.join([*words, '--distributed'])}"])
