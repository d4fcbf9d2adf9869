"""TensorFlow's sides: tf.data as JAX code bases use it for ImageNet, and decoding alone.

`tf.io.decode_and_crop_jpeg` decodes the crop's part of the file only: nothing in common use decodes
less. Its cost alone, from memory, is the floor of every pipeline that resizes behind it. It is
called with its defaults, as everybody does; they are its fast ones (dct_method INTEGER_FAST).
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

# Windows drawn beforehand for each example of the floor.
_WINDOWS = 8


def batches(task: InputTask) -> Work:
  """tf.data from TFRecords to batches of float32, in the manner of Flax's ImageNet example.

  As there: undecoded records from tfds, repeat, shuffle, parallel map, batch, prefetch; a pool of
  threads of its own, each operation in one. Kinder than it: bilinear instead of bicubic, the order
  of finished images left free, no normalisation on the host (nor on ours). `tf.image.resize`
  without antialiasing is what it and its like call, and the cheaper way.
  """
  return _view_batches(task, antialias=False)


def antialiased_batches(task: InputTask) -> Work:
  """`batches` with antialiasing: the same pictures as ours and torchvision's."""
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
  # One thread assembles each batch: several cost some percent more CPU time, and no less time.
  batched = images.batch(task.batch_size, drop_remainder=True)
  # The tensors stay TensorFlow's: to copy them into NumPy arrays would cost more.
  viewed = _threaded(batched.prefetch(tf.data.AUTOTUNE), task)
  return Work((int(image.shape[0]) for image, _ in viewed), warm_up=task.examples)


def decode_eagerly(task: InputTask) -> Work:
  """Decodes windows by eager calls in Python threads; nothing is done with the pixels."""
  encoded, windows = _encoded_and_windows(task)
  examples = [
    (tf.constant(encoded[i % len(encoded)]), tf.constant(window))
    for i, window in enumerate(windows)
  ]
  # Each thread takes a part of the batch as one task: handing images over singly costs some
  # percent.
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
  """Decodes windows in a tf.data map; of the pixels only their number of rows leaves it."""
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
  """Writes each example as a file into `task.jpegs`, named NUMBER_LABEL.jpg, and gives nothing.

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
  """The examples as a tf.data.Dataset, images undecoded."""
  # It imports JAX, which the floor can do without.
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
    # tfds would keep sets below 250 MB in memory, which ImageNet is not.
    read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
  )


def _threaded(dataset: Any, task: InputTask) -> Any:
  options = tf.data.Options()
  options.threading.private_threadpool_size = task.threads
  options.threading.max_intra_op_parallelism = 1
  return dataset.with_options(options)


def _encoded_and_windows(task: InputTask) -> tuple[list[bytes], np.ndarray]:
  """The files' bytes, and for `_WINDOWS` passes over them (top, left, height, width), int32."""
  _hide_gpus()
  encoded = [path.read_bytes() for path in sorted(pathlib.Path(task.jpegs).glob("*.jpg"))]
  shapes = np.array([tf.io.extract_jpeg_shape(image).numpy()[:2] for image in encoded])
  return encoded, source_windows(np.tile(shapes, (_WINDOWS, 1)), task)


def source_windows(shapes: np.ndarray, task: InputTask) -> np.ndarray:
  """Random crops after scale jitter (paper, section 3.4), in the pixels of the stored images.

  Args:
    shapes: (N, 2), height and width of each image.
    task: Gives the crop's size and the short sides.

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
