"""The launcher that submits: each run a managed job of SkyPilot, on a TPU slice of its own.

DIR/000.yaml    the task of a run that has been submitted, as it was last

SkyPilot's command line is called, nothing of it imported: it lives in an environment of its own.
On a TPU slice it starts `run` on every host (the backend's `num_ips_per_node`), where JAX finds out
which one it is; when one host fails it ends the others.
"""

import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from resnet_jax.errors import UserError
from resnet_jax.launch.accelerators import Accelerator
from resnet_jax.launch.board import describe
from resnet_jax.launch.job import PROGRAM, Ending, Job
from resnet_jax.run.files import write_whole

SKY = "sky"
_PRE_EMPTED = 75
# Where the default `setup` installs, and what stands first on the path of `run`: the hosts' own
# Python is too old.
_ENVIRONMENT = "$HOME/resnet-jax"
_INSTALL = """\
set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
uv venv --allow-existing --python '>=3.11,<3.14' "{environment}"
uv pip install --python "{environment}/bin/python" --editable '.[{extras}]'
"""
# What `sky jobs queue` ends with where no job was ever submitted, or the controller sleeps.
_NOTHING_QUEUED = "No in-progress managed jobs"
_ENDED = (
  "SUCCEEDED",
  "CANCELLED",
  "FAILED",
  "FAILED_SETUP",
  "FAILED_PRECHECKS",
  "FAILED_NO_RESOURCE",
  "FAILED_CONTROLLER",
)
_END = "END_OF_TASK"  # Of a here-document: no line of YAML that holds a user's text begins with it.


class SkyPilot:
  """Submits each run that is not finished, unless it is queued or running already."""

  def __init__(
    self,
    files: pathlib.Path,
    accelerator: Accelerator,
    spot: bool = False,
    retries: int = 2,
    setup: str | None = None,
    region: str | None = None,
    zone: str | None = None,
    stops: Callable[[], int] = lambda: 0,
  ):
    """Writes and starts nothing.

    Args:
      files: A directory on this machine for the task files.
      accelerator: What each run is trained on.
      spot: Whether it may be taken away at any time, for less money.
      retries: How often SkyPilot starts a run again that has failed. One that was pre-empted or
        saved after SIGTERM (status 75) it always does.
      setup: A shell command that installs `resnet-jax` on each host, in a copy of the current
        directory; None for an installation of that copy.
      region: Where it is to be; None for anywhere.
      zone: The same, more exactly.
      stops: How often this process has been told to stop: after that, nothing more is submitted.

    Raises:
      UserError: The current directory, which is to be installed, is no clone of this package.
    """
    if setup is None and not pathlib.Path("resnet_jax", "__init__.py").is_file():
      raise UserError(
        "the hosts get a copy of the current directory and install resnet_jax from it: call this "
        "in a clone of resnet_jax, or give --setup COMMAND, which installs it otherwise"
      )
    extras = "tpu,bucket,tfds" if accelerator.runtime else "cuda,bucket,tfds"
    self._setup = setup or _INSTALL.format(environment=_ENVIRONMENT, extras=extras)
    self._files, self._accelerator, self._stops = files, accelerator, stops
    places = {"region": region, "zone": zone}
    self._resources = accelerator.resources() | {
      **{name: place for name, place in places.items() if place},
      "use_spot": spot,
      # SkyPilot (0.14.1) has no list of statuses after which it must not start a run again: that of
      # a user's mistake counts among the retries.
      "job_recovery": {"max_restarts_on_errors": retries, "recover_on_exit_codes": [_PRE_EMPTED]},
    }

  def task(self, job: Job) -> str:
    """The task of a run, as YAML."""
    _require_copied(_argument(job, "--config"))
    words = [*PROGRAM, *job.arguments]
    if self._accelerator.runtime:
      words.append("--distributed")
    # By exec, so that signals reach it.
    run = f'export PATH="{_ENVIRONMENT}/bin:$PATH"\nexec {shlex.join(words)}\n'
    task = {
      "name": job_name(job),
      "workdir": str(pathlib.Path.cwd()),
      "resources": self._resources,
      "setup": self._setup,
      "run": run,
    }
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True)

  def lines(self, jobs: Sequence[Job]) -> list[str]:
    """A shell script that does what `launch` does where nothing is queued or running."""
    lines = ["# What is queued or running by then is not submitted again."]
    lines += [f"# {warning}" for warning in _warnings(jobs)]
    waiting = [job for job in jobs if not job.is_finished()]
    files = shlex.quote(str(self._files.absolute()))
    if waiting:
      lines.append(f"mkdir -p {files}")
    for job in jobs:
      if job not in waiting:
        lines.append(f"# run {job.name} is finished")
        continue
      lines.append(f"cat > {files}/{job.name}.yaml << '{_END}'\n{self.task(job)}{_END}")
      lines.append(f"(cd {files} && {shlex.join(_submission(job))})")
    return lines

  def launch(self, jobs: Sequence[Job]) -> Ending:
    """Submits them; returns when SkyPilot has them all, which may be long before they start.

    Raises:
      UserError: SkyPilot is not there or does not answer, or the files cannot be written.
    """
    require_skypilot()
    waiting = [job for job in jobs if not job.is_finished()]
    tasks = {job.name: self.task(job) for job in waiting}
    queue = _queue() if waiting else {}
    for warning in _warnings(jobs):
      print(f"resnet-jax: {warning}", file=sys.stderr)
    failures: dict[str, str] = {}
    for job in jobs:
      if self._stops():
        return Ending(failures, interrupted=True)
      name, said = job_name(job), f"run {job.name} ({describe(job)})"
      number, status = queue.get(name, (None, ""))
      path = self._files / f"{job.name}.yaml"
      if job.name not in tasks:
        print(f"{said}: finished before", flush=True)
      elif status and status not in _ENDED:
        print(f"{said}: managed job {number} already, {status}", flush=True)
      elif status == "SUCCEEDED" and path.is_file() and path.read_text() == tasks[job.name]:
        print(f"{said}: finished, as managed job {number}; without {path} it runs again")
      elif note := self._submit(job, path, tasks[job.name]):
        failures[job.name] = note
        print(f"{said}: failed, {note}", flush=True)
      else:
        print(f"{said}: submitted as {name}", flush=True)
    return Ending(failures)

  def _submit(self, job: Job, path: pathlib.Path, task: str) -> str:
    """Writes a task's file and submits it; gives what went wrong."""
    try:
      self._files.mkdir(parents=True, exist_ok=True)
      write_whole(path, task.encode())
    except OSError as error:
      raise UserError(f"{path} cannot be written: {error.strerror}") from None
    # From within the directory: SkyPilot takes a path with spaces or quotes for a command.
    status = subprocess.run(_submission(job), cwd=self._files, check=False).returncode
    if status == 0:
      return ""
    path.unlink()
    return f"status {status} of {shlex.join(_submission(job)[:3])}"


def require_skypilot() -> None:
  """Raises a UserError unless SkyPilot's command line is on the path."""
  if shutil.which(SKY) is None:
    raise UserError(
      f"the program {SKY} is not on the PATH: install SkyPilot in an environment of its own (uv "
      "tool install 'skypilot[gcp]') and try it with sky check gcp"
    )


def job_name(job: Job) -> str:
  """The name of a run's managed job: the same at every call, another for another workdir."""
  workdir = _argument(job, "--workdir")
  place = workdir if _is_address(workdir) else os.path.abspath(workdir)
  digest = hashlib.blake2b(place.encode(), digest_size=4).hexdigest()
  sweep = re.sub(r"[^a-z0-9]+", "-", place.split("/")[-2].lower())[:20].strip("-")
  # A name begins with a letter: it becomes that of a cluster.
  return f"{sweep if sweep[:1].isalpha() else f'sweep{sweep}'}-{job.name}-{digest}"


def _submission(job: Job) -> list[str]:
  name = ["--name", job_name(job)]
  return [SKY, "jobs", "launch", "--yes", "--detach-run", *name, f"{job.name}.yaml"]


def _queue() -> dict[str, tuple[int, str]]:
  """Number and status of the newest managed job of each name."""
  command = [SKY, "jobs", "queue", "--all", "--output", "json"]
  asked = subprocess.run(command, capture_output=True, text=True, check=False)
  if asked.returncode:
    said = asked.stdout + asked.stderr
    if _NOTHING_QUEUED in said:
      return {}
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "no message")
    raise UserError(
      f"cannot see which runs are queued already: {shlex.join(command)} ended with status "
      f"{asked.returncode} ({last.strip()}). It takes SkyPilot 0.12 or later"
    )
  try:
    # SkyPilot may say before that it starts its server.
    begin = re.search(r"^\[", asked.stdout, re.MULTILINE)
    jobs: list[dict[str, Any]] = json.loads(asked.stdout[begin.start() if begin else 0 :])
    numbered = sorted((int(job["job_id"]), job["job_name"], str(job["status"])) for job in jobs)
  except (ValueError, KeyError, TypeError):
    raise UserError(
      f"cannot see which runs are queued already: {shlex.join(command)} printed no list of jobs"
    ) from None
  return {name: (number, status) for number, name, status in numbered}


def _argument(job: Job, name: str) -> str:
  return job.arguments[job.arguments.index(name) + 1]


def _is_address(workdir: str) -> bool:
  return re.match(r"\w+://", workdir) is not None


def _warnings(jobs: Sequence[Job]) -> list[str]:
  """That a directory has to be seen from all hosts, unless it is in a bucket."""
  workdir = _argument(jobs[0], "--workdir")
  if _is_address(workdir):
    return []
  folder = os.path.dirname(workdir)
  return [  # One line each, as comments of a script too.
    f"{folder!r} has to be a file system that every host mounts there and that outlives it: a "
    "bucket (gs://…) needs no mounting"
  ]


def _require_copied(experiment: str) -> None:
  """Raises a UserError for an experiment's file that the hosts' copy does not have in its place."""
  stem, suffix, _ = experiment.partition(".py")
  path = pathlib.Path(stem + suffix)
  here = pathlib.Path.cwd()
  if suffix and (path.is_absolute() or not path.resolve().is_relative_to(here)):
    raise UserError(
      f"--config {experiment}: the hosts get a copy of {here}; name a file in it, relative to it"
    )


class _Dumper(yaml.SafeDumper):
  """Writes texts of several lines as such."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
  return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent)
