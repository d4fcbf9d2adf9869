"""The streaming engine: images decoded in threads on the host, normalised and coloured on devices.

The host ships uint8 crops; which crop example i shows in epoch e follows from (seed, e, i) alone.
Mirroring, the mean and the colour noise follow from the run's key, e and i, on the device.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import augment, windows
from resnet_jax.data.cached_source import CachedSource, require_memory
from resnet_jax.data.config import DataConfig, StreamingConfig
from resnet_jax.data.dataset import Dataset, Split
from resnet_jax.data.decode import decode_window, decoding_threads
from resnet_jax.data.decoded_examples import DecodedExamples, Show
from resnet_jax.data.decoding_pool import DecodingPool
from resnet_jax.data.evaluation_views import plain_view, show_center_crop
from resnet_jax.data.example_source import ExampleSource
from resnet_jax.data.prepared import is_address, prepare_command
from resnet_jax.data.preprocessing import Preprocessing, make_preprocessing
from resnet_jax.data.split_sources import split_sources
from resnet_jax.data.statistics import Statistics, load_statistics, statistics_path
from resnet_jax.errors import UserError

logger = logging.getLogger(__name__)


def streaming_dataset(
  config: DataConfig, seed: int, class_names: tuple[str, ...] | None = None
) -> Dataset:
  """Opens a data set of images of any size: folders, or what tensorflow-datasets has prepared.

  Its splits are those of `split_sources.split_sources`.

  Args:
    config: The data section of a config.
    seed: The run's seed, of which the random crops are a function.
    class_names: As `open_dataset`'s.

  Raises:
    UserError: The data set is not prepared for these settings, or they contradict each other.
  """
  _check(config.streaming)
  statistics = _statistics(config)
  preprocessing, colors = _preprocessing(config, statistics), _colors(config, statistics)
  if is_address(config.data_dir) and config.streaming.shuffle_block == 1:
    logger.warning(
      "every example is a read of its own from %s: data.streaming.shuffle_block=16 would shuffle "
      "blocks of 16 that are read at once, and be faster",
      config.data_dir,
    )
  parts = split_sources(config, class_names)
  if statistics and statistics.identity not in ("", parts["train"][0].identity):
    logger.warning(
      "the mean image was made of other files than those of %s: run `%s` again",
      *(config.dataset, _prepare_command(config)),
    )
  return build_dataset(config, seed, parts, preprocessing, colors)


def build_dataset(
  config: DataConfig,
  seed: int,
  parts: Mapping[str, tuple[ExampleSource, range]],
  preprocessing: Preprocessing,
  colors: Mapping[str, np.ndarray],
) -> Dataset:
  """A data set from open sources.

  Args:
    config: The data section of a config.
    seed: The run's seed.
    parts: For each split, a source and which of its examples belong; at least one.
    preprocessing: What is done to pixels.
    colors: `color_magnitudes` and `color_components`; see `training_view`.
  """
  settings = config.streaming
  sources = _cached(config, parts)
  pool = DecodingPool(decoding_threads(settings.decode_threads))
  train_view = functools.partial(
    training_view,
    flip=settings.flip,
    color_noise=settings.color_noise,
    color_jitter=dataclasses.asdict(settings.color_jitter),
  )
  shows: dict[str, Show] = {"train": functools.partial(show_random_crop, settings, seed)}
  show_centre = functools.partial(show_center_crop, settings)
  shape = (settings.image_size, settings.image_size, 3)
  splits = {
    name: Split(
      name=name,
      size=len(examples),
      constants=preprocessing.constants | dict(colors),
      fetch=DecodedExamples(
        source,
        examples,
        shows.get(name, show_centre),
        shape,
        pool,
        together=settings.shuffle_block,
        skip=settings.undecodable == "skip",
      ),
      view=train_view if name == "train" else plain_view,
      block=settings.shuffle_block,
      examples_ahead=pool.size,
      identity=parts[name][0].identity,
    )
    for name, (source, examples) in sources.items()
  }
  class_names = next(iter(parts.values()))[0].class_names
  return Dataset(config.dataset, class_names, shape, splits, preprocessing)


def show_random_crop(
  settings: StreamingConfig,
  seed: int,
  epoch: int,
  example: int,
  image: bytes | np.ndarray,
  result: np.ndarray,
) -> None:
  """Writes the training crop of one example in one epoch: (image_size, image_size, 3) uint8."""
  size = settings.image_size
  if settings.crop == "inception":
    inception = settings.inception
    window = functools.partial(
      windows.inception_window,
      words=windows.random_words(seed, epoch, example, windows.WORDS),
      area=(inception.area_min, inception.area_max),
      aspect=(inception.aspect_min, inception.aspect_max),
    )
  else:
    window = functools.partial(
      windows.scale_jitter_window,
      words=windows.random_words(seed, epoch, example, 3),
      short_sides=(settings.short_side_min, settings.short_side_max),
      size=size,
    )
  decode_window(image, window, (size, size), quick=True, result=result)


def training_view(
  constants: Any,
  batch: Mapping[str, jax.Array],
  key: jax.Array,
  *,
  flip: bool,
  color_noise: float,
  color_jitter: Mapping[str, float],
) -> tuple[jax.Array, jax.Array]:
  """The paper's view of ImageNet (section 3.4): a crop, mirrored, coloured, normalised.

  Args:
    constants: What `preprocessing.normalize` takes, and what `augment.color_noise` does:
      `color_magnitudes` (3,) and `color_components` (3, 3).
    batch: `image` (N, H, W, 3) uint8, and `label`, `epoch` and `example`, each (N,) int32.
    key: The run's key.
    flip: Whether to mirror half of the images.
    color_noise: Deviation of the noise along the principal components of RGB, or 0.
    color_jitter: `augment.color_jitter`'s settings; all 0 for none.

  Returns:
    Images (N, H, W, 3) float32, labels (N,) int32.
  """
  keys = jax.vmap(augment.example_key, (None, 0, 0))(key, batch["epoch"], batch["example"])
  flip_keys, color_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
  if flip:
    # "Crop, flip, subtract": the mean image itself is not mirrored.
    batch = {**batch, "image": jax.vmap(augment.random_flip)(flip_keys, batch["image"])}
  if any(color_jitter.values()):
    jitter_keys = jax.vmap(jax.random.fold_in, (0, None))(color_keys, 1)
    jitter = jax.vmap(lambda key, image: augment.color_jitter(key, image, **color_jitter))
    colored = jitter(jitter_keys, batch["image"].astype(jnp.float32))
    batch = {**batch, "image": colored}
  if color_noise:
    color = functools.partial(
      augment.color_noise,
      deviation=color_noise,
      magnitudes=constants["color_magnitudes"],
      components=constants["color_components"],
    )
    noisy = jax.vmap(color)(color_keys, batch["image"].astype(jnp.float32))
    batch = {**batch, "image": noisy}
  return plain_view(constants, batch, key)


def _check(settings: StreamingConfig) -> None:
  fields = ["short_side_evaluation"]
  if settings.crop == "scale_jitter":
    fields.append("short_side_min")
  for name in fields:
    if settings.image_size > getattr(settings, name):
      raise UserError(
        f"data.streaming.image_size={settings.image_size} does not fit into a short side of "
        f"{getattr(settings, name)}: make it smaller, or data.streaming.{name} larger"
      )
  if settings.short_side_min > settings.short_side_max:
    raise UserError(
      f"data.streaming.short_side_min={settings.short_side_min} exceeds "
      f"short_side_max={settings.short_side_max}: set both"
    )
  if settings.decode_threads < 0:
    raise UserError("data.streaming.decode_threads must be at least 0, which is one a core")
  inception = settings.inception
  for name in ("area", "aspect"):
    low, high = (getattr(inception, f"{name}_{end}") for end in ("min", "max"))
    if low > high:
      raise UserError(
        f"data.streaming.inception.{name}_min={low} exceeds {name}_max={high}: set both"
      )


def _cached(
  config: DataConfig, parts: Mapping[str, tuple[ExampleSource, range]]
) -> dict[str, tuple[ExampleSource | CachedSource, range]]:
  """The parts, with each source's images kept in memory if the config says so."""
  kind = config.streaming.cache
  if kind == "nothing":
    return dict(parts)
  sources = {id(source): source for source, _ in parts.values()}
  require_memory(list(sources.values()), kind, config.dataset)
  kept = {key: CachedSource(source, kind) for key, source in sources.items()}
  return {name: (kept[id(source)], examples) for name, (source, examples) in parts.items()}


def _prepare_command(config: DataConfig) -> str:
  """The command that prepares the data set for this config's sizes."""
  settings, sizes = config.streaming, []
  if settings.image_size != StreamingConfig.image_size:
    sizes.append(f"--image-size {settings.image_size}")
  if settings.short_side_evaluation != StreamingConfig.short_side_evaluation:
    sizes.append(f"--short-side {settings.short_side_evaluation}")
  command = prepare_command(config.data_dir, config.dataset, config.prepared_dir)
  return " ".join([command, *sizes])


def _statistics(config: DataConfig) -> Statistics | None:
  """What `prepare` computed, if it fits; None where nothing of it is asked for."""
  if not isinstance(config.mean, str) and config.streaming.color_components == "alexnet":
    return None
  command = _prepare_command(config)
  path = statistics_path(config.data_dir, config.dataset, config.prepared_dir)
  if not path.exists():
    raise UserError(f"{config.dataset} is not prepared ({path} is missing): run `{command}`")
  statistics = load_statistics(path)
  size, short_side = config.streaming.image_size, config.streaming.short_side_evaluation
  if config.mean == "pixel" and size != statistics.image_size:
    raise UserError(
      f"data.streaming.image_size={size}, but the stored mean image has {statistics.image_size} "
      f"pixels: set it to that, or data.mean to channel, or run `{command}`"
    )
  if config.mean == "pixel" and short_side != statistics.short_side:
    logger.warning(
      "the mean image was made at a short side of %d, and data.streaming.short_side_evaluation is "
      "%d: run `%s` for that of this view",
      *(statistics.short_side, short_side, command),
    )
  return statistics


def _preprocessing(config: DataConfig, statistics: Statistics | None) -> Preprocessing:
  settings, own = config.streaming, np.zeros(3)
  if statistics:
    own = statistics.mean_image if config.mean == "pixel" else statistics.mean_color
  return make_preprocessing(
    config, own, settings.image_size, settings.short_side_evaluation, settings.interpolation
  )


def _colors(config: DataConfig, statistics: Statistics | None) -> dict[str, np.ndarray]:
  """Of the colour noise, float32."""
  found: tuple[Any, Any] = (augment.ALEXNET_MAGNITUDES, augment.ALEXNET_COMPONENTS)
  if statistics and config.streaming.color_components == "training_split":
    found = (statistics.eigenvalues, statistics.eigenvectors)
  names = ("color_magnitudes", "color_components")
  return {name: np.asarray(each, np.float32) for name, each in zip(names, found, strict=True)}
