"""The streaming engine: images decoded in threads on the host, normalised and coloured on devices.

The host ships uint8 crops; which crop example i shows in epoch e follows from (seed, e, i) alone.
Mirroring, the mean and the colour noise follow from the run's key, e and i, on the device.
"""

import concurrent.futures
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import augment
from resnet_jax.data.config import DataConfig, StreamingConfig
from resnet_jax.data.dataset import Dataset, Split
from resnet_jax.data.decode import decoding_threads
from resnet_jax.data.decoded_examples import DecodedExamples, evaluation_window, training_window
from resnet_jax.data.example_source import ExampleSource
from resnet_jax.data.prepared import prepare_command
from resnet_jax.data.split_sources import split_sources
from resnet_jax.data.statistics import load_statistics, statistics_path
from resnet_jax.errors import UserError


def streaming_dataset(config: DataConfig, seed: int) -> Dataset:
  """Opens a data set of images of any size: folders, or what tensorflow-datasets has prepared.

  Its splits are those of `split_sources.split_sources`.

  Args:
    config: The data section of a config.
    seed: The run's seed, of which the random crops are a function.

  Raises:
    UserError: The data set is not prepared for these settings, or they contradict each other.
  """
  _check(config.streaming)
  mean = _mean(config)
  return build_dataset(config, seed, split_sources(config), mean)


def build_dataset(
  config: DataConfig, seed: int, parts: Mapping[str, tuple[ExampleSource, range]], mean: np.ndarray
) -> Dataset:
  """A data set from open sources.

  Args:
    config: The data section of a config.
    seed: The run's seed.
    parts: For each split, a source and which of its examples belong; `train` must be there.
    mean: (image_size, image_size, 3) or (3,) float32, on the scale [0, 255].
  """
  settings = config.streaming
  executor = concurrent.futures.ThreadPoolExecutor(
    decoding_threads(settings.decode_threads), thread_name_prefix="decode"
  )
  train_view = functools.partial(
    training_view, flip=settings.flip, color_noise=settings.color_noise
  )
  evaluated = functools.partial(evaluation_window, settings)
  windows = {"train": functools.partial(training_window, settings, seed)}
  splits = {
    name: Split(
      name=name,
      size=len(examples),
      constants={"mean": mean},
      fetch=DecodedExamples(
        source,
        examples,
        windows.get(name, evaluated),
        settings.image_size,
        executor,
      ),
      view=train_view if name == "train" else plain_view,
      identity=parts[name][0].identity,
    )
    for name, (source, examples) in parts.items()
  }
  shape = (settings.image_size, settings.image_size, 3)
  return Dataset(config.dataset, parts["train"][0].class_names, shape, splits)


def plain_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The view of evaluation: the crop less the mean.

  Args:
    constants: `mean` (H, W, 3) or (3,) float32.
    batch: `image` (N, H, W, 3) uint8 and `label` (N,) int32.
    key: Unused; the view is the same each time.

  Returns:
    Images (N, H, W, 3) float32, labels (N,) int32.
  """
  del key
  return batch["image"].astype(jnp.float32) - constants["mean"], batch["label"]


def training_view(
  constants: Any, batch: Mapping[str, jax.Array], key: jax.Array, *, flip: bool, color_noise: float
) -> tuple[jax.Array, jax.Array]:
  """The paper's view of ImageNet (section 3.4): a crop, mirrored, less the mean, coloured.

  Args:
    constants: As `plain_view`'s.
    batch: `plain_view`'s, with `epoch` and `example`, each (N,).
    key: The run's key.
    flip: Whether to mirror half of the images.
    color_noise: Deviation of the noise along the principal components of RGB, or 0.

  Returns:
    Images (N, H, W, 3) float32, labels (N,) int32.
  """
  keys = jax.vmap(augment.example_key, (None, 0, 0))(key, batch["epoch"], batch["example"])
  flip_keys, color_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
  if flip:
    # "Crop, flip, subtract": the mean image itself is not mirrored.
    batch = {**batch, "image": jax.vmap(augment.random_flip)(flip_keys, batch["image"])}
  images, labels = plain_view(constants, batch, key)
  if color_noise:
    color = functools.partial(augment.color_noise, deviation=color_noise)
    images = jax.vmap(color)(color_keys, images)
  return images, labels


def _check(settings: StreamingConfig) -> None:
  smallest = min(settings.short_side_min, settings.short_side_evaluation)
  if not 0 < settings.image_size <= smallest:
    raise UserError(
      f"data.streaming.image_size={settings.image_size} does not fit into a short side of "
      f"{smallest}: make it 1 to {smallest}, or the short sides larger"
    )
  if settings.short_side_min > settings.short_side_max:
    raise UserError(
      f"data.streaming.short_side_min={settings.short_side_min} exceeds "
      f"short_side_max={settings.short_side_max}: swap them"
    )
  if settings.decode_threads < 0:
    raise UserError("data.streaming.decode_threads must be at least 0, which is one a core")


def _mean(config: DataConfig) -> np.ndarray:
  """(image_size, image_size, 3) or (3,) float32, from what `prepare` computed."""
  command = prepare_command(config.data_dir, config.dataset, config.prepared_dir)
  path = statistics_path(config.data_dir, config.dataset, config.prepared_dir)
  if not path.exists():
    raise UserError(f"{config.dataset} is not prepared ({path} is missing): run `{command}`")
  statistics = load_statistics(path)
  if config.mean == "channel":
    return statistics.mean_color.astype(np.float32)
  size = config.streaming.image_size
  if size != statistics.image_size:
    raise UserError(
      f"data.streaming.image_size={size}, but the stored mean image has {statistics.image_size} "
      f"pixels: set it to that, or data.mean to channel, or run `{command} --image-size {size}`"
    )
  return statistics.mean_image.astype(np.float32)
