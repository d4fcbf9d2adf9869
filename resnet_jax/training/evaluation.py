"""A network opened to be measured: that of a run after its training, or converted weights."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from resnet_jax import devices
from resnet_jax.data.config import DataConfig, StreamingConfig
from resnet_jax.data.dataset import Dataset, Split
from resnet_jax.data.folder_source import folder_classes
from resnet_jax.data.preprocessing import with_preprocessing
from resnet_jax.data.sources import open_dataset
from resnet_jax.data.split_sources import FOLDER
from resnet_jax.errors import UserError
from resnet_jax.evaluation.progress import ScoringProgress
from resnet_jax.evaluation.protocols import Protocol, make_passes, resolve
from resnet_jax.evaluation.scores import Scores, score_split
from resnet_jax.models import Network
from resnet_jax.run.workdir import read_config
from resnet_jax.training.build import build_run
from resnet_jax.training.config import Config, with_data_dir
from resnet_jax.training.reestimation import Reestimation, read_reestimation
from resnet_jax.training.restore import restore_variables
from resnet_jax.weights.class_offset import without_offset
from resnet_jax.weights.directory import WeightsInfo, load_weights, require_preprocessing
from resnet_jax.weights.imagenet import imagenet_class_names, imagenet_synsets


@dataclasses.dataclass(frozen=True)
class RunOrigin:
  """The run that a network is of.

  Attributes:
    workdir: Its directory.
    model: The network's name.
    checkpoint: What was asked for: last, best or a step.
    step: The step that this is.
    ema_decay: Of the moving average that the weights are; None for the weights themselves.
    reestimation: How the batch statistics were re-estimated, or None.
  """

  workdir: pathlib.Path
  model: str
  checkpoint: str
  step: int
  ema_decay: float | None
  reestimation: Reestimation | None


@dataclasses.dataclass(frozen=True)
class WeightsOrigin:
  """The directory of weights that a network is of, and what is known of them."""

  directory: pathlib.Path
  info: WeightsInfo


@dataclasses.dataclass(frozen=True)
class Member:
  """One network, alone or of an ensemble, with all that says which it is and what it is shown.

  Attributes:
    origin: Where it is from.
    dataset: The data set.
    split: The examples.
    streaming: How the data set's pictures are shown, if they are decoded.
    protocol: What of the examples is shown, with everything filled in.
    model: The network.
    variables: `params` and `batch_stats`, replicated.
    batch_size: Views of the network's own size at a time, over all devices.
    key: The run's key.
    parallelize: How functions are mapped over the devices.
  """

  origin: RunOrigin | WeightsOrigin
  dataset: Dataset
  split: Split
  streaming: StreamingConfig
  protocol: Protocol
  model: Network
  variables: Any
  batch_size: int
  key: jax.Array
  parallelize: Callable[..., Any]

  @property
  def place(self) -> pathlib.Path:
    """The directory of the run, or of the weights."""
    origin = self.origin
    return origin.workdir if isinstance(origin, RunOrigin) else origin.directory

  def score(self) -> Scores:
    """Scores all examples and shows progress on standard error."""
    passes = make_passes(self.protocol, self.split, self.streaming, self.model, self.batch_size)
    programs = sum(one.programs for one in passes)
    with ScoringProgress(len(passes) * self.split.size, programs) as progress:
      return score_split(
        passes, self.variables, self.key, self.parallelize, progress.advance, progress.compiling
      )


def open_run(
  workdir: pathlib.Path,
  checkpoint: str,
  average: bool,
  split: str,
  protocol: Protocol,
  data_dir: str | None = None,
  batch_size: int | None = None,
) -> Member:
  """Opens a run to measure it; nothing in its directory changes.

  Args:
    workdir: The run's directory.
    checkpoint: last, best or a step.
    average: Whether to take the moving average of the weights.
    split: validation or test.
    protocol: What is to be shown.
    data_dir: Where the data lies now; None for where the config has it.
    batch_size: As in `Member`; None for the config's.

  Raises:
    UserError: There is no such run, checkpoint, average or split; or it cannot be tested so.
  """
  config = with_data_dir(read_config(workdir, Config), data_dir)
  run = build_run(config, trains=False)
  examples = _split(run.dataset, split)
  protocol = resolve(protocol, run.dataset, examples, config.data.streaming)
  step, variables = restore_variables(run, workdir, checkpoint, average)
  origin = RunOrigin(
    workdir,
    config.model.name,
    checkpoint,
    step,
    config.ema_decay if average else None,
    read_reestimation(workdir, step),
  )
  member = Member(
    origin,
    run.dataset,
    examples,
    config.data.streaming,
    protocol,
    run.model,
    variables,
    batch_size or config.evaluation_batch_size,
    run.key,
    run.parallelize,
  )
  _check_view(member, "that of the training")
  return member


def open_weights(
  directory: pathlib.Path,
  data: DataConfig,
  split: str,
  protocol: Protocol,
  batch_size: int,
) -> Member:
  """Opens converted weights to measure them.

  Args:
    directory: What `resnet-jax convert` or `save_weights` wrote.
    data: The data set; pixels and sizes are those that the weights expect.
    split: validation or test.
    protocol: What is to be shown.
    batch_size: As in `Member`.

  Raises:
    UserError: There are no such weights, or they do not fit the data set.
  """
  model, variables, info = load_weights(directory)
  model, variables = without_offset(model, variables, info)
  data = with_preprocessing(data, require_preprocessing(directory, info))
  dataset = open_dataset(data, seed=0, class_names=_folder_names(info, data))
  _check_classes(directory, info, model, dataset)
  examples = _split(dataset, split)
  member = Member(
    WeightsOrigin(directory, info),
    dataset,
    examples,
    data.streaming,
    resolve(protocol, dataset, examples, data.streaming),
    model,
    devices.replicate(variables),
    batch_size,
    jax.random.key(0),
    devices.parallelize,
  )
  _check_view(member, "that of the weights")
  return member


def _folder_names(info: WeightsInfo, data: DataConfig) -> tuple[str, ...] | None:
  """The names of the outputs, if folders of pictures are called so: then labels follow from them.

  Folders of ImageNet's pictures are called by WordNet's numbers.
  """
  if data.dataset != FOLDER or info.class_names is None:
    return None
  present = {*folder_classes(data.data_dir)}
  synsets = imagenet_synsets() if info.class_names == imagenet_class_names() else ()
  return next((names for names in (info.class_names, synsets) if present <= {*names}), None)


def _split(dataset: Dataset, name: str) -> Split:
  if name not in dataset.splits:
    other = "; give --split test" if "test" in dataset.splits else ""
    raise UserError(f"{dataset.name} has no {name} split here: {', '.join(dataset.splits)}{other}")
  return dataset.splits[name]


def _check_classes(
  directory: pathlib.Path, info: WeightsInfo, model: Network, dataset: Dataset
) -> None:
  """Raises a UserError unless the outputs can be the data set's classes."""
  outputs, names = model.num_classes, info.class_names
  if outputs != dataset.num_classes:
    offset = f" after the first {info.class_offset}" if info.class_offset else ""
    raise UserError(
      f"the weights in {directory} have {outputs} outputs{offset}, and {dataset.name} has "
      f"{dataset.num_classes} classes: choose the data set that they were trained on"
    )
  if names is not None and names != dataset.class_names and {*names} == {*dataset.class_names}:
    raise UserError(
      f"the weights in {directory} have the classes of {dataset.name} in another order "
      f"({', '.join(names[:3])}, …; here {', '.join(dataset.class_names[:3])}, …)"
    )


def _check_view(member: Member, own: str) -> None:
  """Raises a UserError for a view of a size that the network cannot see."""
  height, width, channels = member.dataset.image_shape
  crop = member.protocol.crop
  if crop is not None:
    height = width = crop
  images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
  apply = functools.partial(member.model.apply, train=False)
  try:
    jax.eval_shape(apply, member.variables, images)
  except (ValueError, TypeError, FlaxError) as error:
    views = f"{width}x{height} pixels" if crop is None else f"--crop {crop}: views of this size"
    raise UserError(
      f"{views} do not fit the network ({str(error).splitlines()[0]}): choose another, or {own}"
    ) from None
