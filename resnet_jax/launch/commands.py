"""The launcher that prints: plain commands for any scheduler, or for the hosts of a TPU pod."""

import dataclasses
import shlex
from collections.abc import Sequence

from resnet_jax.launch.job import PROGRAM, Ending, Job


@dataclasses.dataclass(frozen=True)
class Commands:
  """Prints one command for each run.

  Attributes:
    tpu: Name of a TPU VM, on all of whose hosts the command is to be started through gcloud.
    zone: Its zone.
  """

  tpu: str | None = None
  zone: str | None = None

  def lines(self, jobs: Sequence[Job]) -> list[str]:
    """A line for each run that is not finished; a newline in a value stands quoted in it."""
    return [self._line(job) for job in jobs if not job.is_finished()]

  def launch(self, jobs: Sequence[Job]) -> Ending:
    """Prints them."""
    for line in self.lines(jobs):
      print(line)
    return Ending()

  def _line(self, job: Job) -> str:
    words = [*PROGRAM, *job.arguments]
    if self.tpu is None:
      return shlex.join(words)
    # Each host starts the same command; which of them it is, JAX finds out.
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self.tpu, "--worker=all"]
    zone = ["--zone", self.zone] if self.zone else []
    # Quoted for the shell of the hosts, and then, with all else, for the one that reads this line.
    return shlex.join([*ssh, *zone, f"--command={shlex.join([*words, '--distributed'])}"])
