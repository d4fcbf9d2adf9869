"""The numbers of a run at Weights & Biases, for those who ask for it."""

import importlib.util
import pathlib
import uuid
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.run.files import write_whole


def require_wandb() -> None:
  """Raises a UserError unless the package is installed."""
  if importlib.util.find_spec("wandb") is None:
    raise UserError(
      'wandb_project: Weights & Biases is not installed; pip install "resnet_jax[wandb]", or leave '
      "the field out"
    )


class WandbRecords:
  """Sends records to one run of a project, the same after every start.

  What a killed run does again after its last checkpoint is sent again, under the same `step`:
  there, records can only be added.
  """

  def __init__(self, workdir: pathlib.Path, project: str, config: Any):
    """Opens the run whose name on the server the directory keeps, or a new one.

    Args:
      workdir: The run's directory.
      project: Name of the project.
      config: The run's config, of what JSON can hold.
    """
    require_wandb()
    import wandb

    path = workdir / "wandb_id"
    if not path.exists():
      write_whole(path, uuid.uuid4().hex.encode())
    self._run = wandb.init(
      project=project,
      id=path.read_text().strip(),
      name=workdir.resolve().name,
      dir=workdir,
      config=config,
      resume="allow",
    )
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, split: str, **values: Any) -> None:
    """One record of a split after `step` steps."""
    self._run.log({"step": step} | {f"{split}/{name}": value for name, value in values.items()})

  def sync(self) -> None:
    """Nothing: they are sent when the network has time."""

  def close(self) -> None:
    """Sends what is left; waits for it."""
    self._run.finish()
