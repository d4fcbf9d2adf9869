"""TensorFlow's sides: tf.data as JAX code bases use it for ImageNet, and decoding alone.

`tf.io.decode_and_crop_jpeg` decodes only the crop's part of the file; nothing in common use decodes
less. Its cost from memory is the floor of every pipeline that resizes afterwards. It is called with
its defaults, which are also its fastest settings (dct_method INTEGER_FAST).
"""

import concurrent.futures
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_jax.benchmarks.task import InputTask
from resnet_jax.benchmarks.work import Work
from resnet_jax.errors import UserError

# Random windows per example of the decode floor, drawn before the measurement.
_WINDOWS = 8


def batches(task: InputTask) -> Work:
  """Opens tf.data from TFRecords to batches of float32, as in Flax's ImageNet example.

  As there: undecoded records from tfds, repeat, shuffle, parallel map, batch, prefetch; a private
  thread pool, and one thread per operation. Cheaper than there: bilinear instead of bicubic, images
  in any order, no normalisation on the host (nor on our side). Like the example, it calls
  `tf.image.resize` without antialiasing, which is the cheaper way.
  """
  return _view_batches(task, antialias=False)


def antialiased_batches(task: InputTask) -> Work:
  """Opens `batches` with antialiasing, which gives the same images as ours and torchvision's."""
  return _view_batches(task, antialias=True)


def _view_batches(task: InputTask, antialias: bool) -> Work:

  def view(example: dict[str, Any]) -> tuple[Any, Any]:
    encoded = example["image"]
    shape = tf.cast(tf.image.extract_jpeg_shape(encoded)[:2], tf.float32)
    low, high = task.short_sides
    short_side = tf.random.uniform((), low, high + 1, tf.int32)
    side = task.image_size * tf.reduce_min(shape) / tf.cast(short_side, tf.float32)
    corner = tf.random.uniform((2,)) * (shape - side)
    window = tf.cast(tf.concat([corner, [side, side]], 0), tf.int32)
    image = tf.io.decode_and_crop_jpeg(encoded, window, channels=3)
    size = (task.image_size, task.image_size)
    image = tf.image.resize(image, size, "bilinear", antialias=antialias)
    return tf.image.random_flip_left_right(image), example["label"]

  records = _records(task, shuffle_files=True).repeat().shuffle(16 * task.batch_size)
  images = records.map(view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
  # One thread assembles each batch: several take a few percent more CPU time and are no faster.
  batched = images.batch(task.batch_size, drop_remainder=True)
  # The tensors stay TensorFlow's, because copying them into NumPy arrays would cost more.
  viewed = _threaded(batched.prefetch(tf.data.AUTOTUNE), task)
  return Work((int(image.shape[0]) for image, _ in viewed), warm_up=task.examples)


def decode_eagerly(task: InputTask) -> Work:
  """Decodes windows by eager calls in Python threads and discards the pixels."""
  encoded, windows = _encoded_and_windows(task)
  examples = [
    (tf.constant(encoded[i % len(encoded)]), tf.constant(window))
    for i, window in enumerate(windows)
  ]
  # Each thread takes a part of the batch as one task: one task per image costs a few percent.
  parts = np.array_split(np.arange(task.batch_size), task.threads)

  def decode(first: int, part: np.ndarray) -> None:
    for i in part:
      image, window = examples[(first + int(i)) % len(examples)]
      tf.io.decode_and_crop_jpeg(image, window, channels=3)

  def stream() -> Iterator[int]:
    with concurrent.futures.ThreadPoolExecutor(task.threads) as executor:
      for step in itertools.count():
        list(executor.map(decode, itertools.repeat(step * task.batch_size), parts))
        yield task.batch_size

  return Work(stream(), warm_up=task.examples)


def decode_in_tf_data(task: InputTask) -> Work:
  """Decodes windows in a tf.data map, which returns only the number of rows."""
  encoded, windows = _encoded_and_windows(task)

  def rows(image: Any, window: Any) -> Any:
    return tf.shape(tf.io.decode_and_crop_jpeg(image, window, channels=3))[0]

  examples = tf.data.Dataset.zip(
    (
      tf.data.Dataset.from_tensor_slices(encoded).repeat(),
      tf.data.Dataset.from_tensor_slices(windows).repeat(),
    )
  )
  decoded = examples.map(rows, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
  batched = decoded.batch(task.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
  return Work((int(rows.shape[0]) for rows in _threaded(batched, task)), warm_up=task.examples)


def write_jpegs(task: InputTask) -> Work:
  """Writes each example to `task.jpegs` as NUMBER_LABEL.jpg; returns work without batches.

  Raises:
    UserError: An example is not a JPEG.
  """
  folder = pathlib.Path(task.jpegs)
  for i, example in enumerate(_records(task, shuffle_files=False).as_numpy_iterator()):
    if not example["image"].startswith(b"\xff\xd8"):
      raise UserError(
        f"training example {i} of {task.dataset} is not a JPEG, and the peers read nothing else: "
        f"measure with --examples {i}, or without --peers"
      )
    (folder / f"{i:07d}_{example['label']}.jpg").write_bytes(example["image"])
  return Work(iter(()))


def _records(task: InputTask, shuffle_files: bool) -> Any:
  """Opens the examples as a tf.data.Dataset with undecoded images."""
  # tfds imports JAX, which the decode floor does not need.
  import tensorflow_datasets as tfds

  _hide_gpus()
  builder = tfds.builder(f"{task.dataset}:*.*.*", data_dir=task.data_dir)
  if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
    raise UserError(
      f"{task.dataset} is prepared as {builder.info.file_format.value}, which tf.data does not "
      "read: measure without --peers, or prepare it as tfrecord"
    )
  return builder.as_dataset(
    split=f"train[:{task.examples}]",
    shuffle_files=shuffle_files,
    decoders={"image": tfds.decode.SkipDecoding()},
    # tfds would cache sets below 250 MB in memory, but ImageNet is larger.
    read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
  )


def _threaded(dataset: Any, task: InputTask) -> Any:
  options = tf.data.Options()
  options.threading.private_threadpool_size = task.threads
  options.threading.max_intra_op_parallelism = 1
  return dataset.with_options(options)


def _encoded_and_windows(task: InputTask) -> tuple[list[bytes], np.ndarray]:
  """Returns the files' bytes, and windows for `_WINDOWS` passes over them, as `source_windows`."""
  _hide_gpus()
  encoded = [path.read_bytes() for path in sorted(pathlib.Path(task.jpegs).glob("*.jpg"))]
  shapes = np.array([tf.io.extract_jpeg_shape(image).numpy()[:2] for image in encoded])
  return encoded, source_windows(np.tile(shapes, (_WINDOWS, 1)), task)


def source_windows(shapes: np.ndarray, task: InputTask) -> np.ndarray:
  """Draws random crops after scale jitter (paper, section 3.4), in pixels of the stored images.

  Args:
    shapes: (N, 2), height and width of each image.
    task: Sets the crop's size and the range of short sides.

  Returns:
    (N, 4) int32: top, left, height, width, within the image.
  """
  generator = np.random.default_rng(0)
  low, high = task.short_sides
  short_sides = generator.integers(low, high + 1, len(shapes))
  sides = task.image_size * shapes.min(axis=1) / short_sides
  corners = generator.random(shapes.shape) * (shapes - sides[:, None])
  return np.concatenate([corners, np.stack([sides, sides], 1)], 1).astype(np.int32)


def _hide_gpus() -> None:
  tf.config.set_visible_devices([], "GPU")
