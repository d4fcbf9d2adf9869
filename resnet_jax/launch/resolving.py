"""From a run as a sweep file has it to its config and command, checked."""

from collections.abc import Sequence

from resnet_jax.data.blank import blank_dataset
from resnet_jax.data.config import DataConfig
from resnet_jax.data.dataset import Dataset
from resnet_jax.data.sources import open_dataset
from resnet_jax.errors import UserError
from resnet_jax.launch.overrides import replace_fields, require_restored, to_arguments
from resnet_jax.launch.sweep_file import Variation
from resnet_jax.run.config import load_config, override_config
from resnet_jax.training.build import Run, build_run, check_without_data
from resnet_jax.training.config import Config


def resolve(variation: Variation, arguments: Sequence[str]) -> Config:
  """A run's config, which the words of its command give as well.

  Args:
    variation: The run.
    arguments: `--config.FIELD=VALUE` arguments for every run, after those of the file.

  Raises:
    UserError: A field or a value of it is wrong, or cannot be given on a command line.
  """
  base = load_config(variation.experiment, Config)
  config = replace_fields(base, variation.overrides)
  if arguments:
    config = override_config(config, arguments, "resnet-jax sweep")
  require_restored(base, [*to_arguments(variation.overrides), *arguments], config)
  return config


def train_arguments(variation: Variation, workdir: str, arguments: Sequence[str]) -> list[str]:
  """The words of the command that trains a run in its directory, after `resnet-jax`."""
  words = [*to_arguments(variation.overrides), *arguments]
  return ["train", "--config", variation.experiment, "--workdir", workdir, *words]


def named_fields(arguments: Sequence[str]) -> set[str]:
  """The fields that `--config.…` arguments name."""
  return {
    word.removeprefix("--config.").partition("=")[0]
    for word in arguments
    if word.startswith("--config.")
  }


class Checker:
  """Builds runs without training them; a data set that several share is opened once."""

  def __init__(self, needs_data: bool):
    """Opens nothing yet.

    Args:
      needs_data: Whether the runs are to be trained here. Else what depends on a data set that is
        not here is not looked at.
    """
    self._needs_data = needs_data
    self._opened: tuple[DataConfig, Dataset | None] | None = None

  def build(self, config: Config) -> Run | None:
    """The objects of a run; None if nobody can make them without its data, which is not here.

    Raises:
      UserError: The config has a mistake.
    """
    check_without_data(config)
    if self._opened is None or self._opened[0] != config.data:
      self._opened = None  # Before the next is read: two may not fit into memory.
      self._opened = config.data, self._open(config)
    dataset = self._opened[1]
    return build_run(config, dataset=dataset) if dataset else None

  def _open(self, config: Config) -> Dataset | None:
    try:
      return open_dataset(config.data, config.seed)
    except UserError:
      if self._needs_data:
        raise
      return blank_dataset(config.data, config.seed)  # Of some sets the sizes are known.
