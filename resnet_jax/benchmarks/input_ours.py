"""Our side of the input benchmark: the training stream as the loop reads it, without the step."""

import dataclasses

import msgspec

from resnet_jax.benchmarks.task import InputTask
from resnet_jax.benchmarks.work import Work
from resnet_jax.data import DataConfig, open_dataset, prefetch, training_batches


def batches(task: InputTask) -> Work:
  """Opens a stream of uint8 crops on the host.

  Mirroring, the mean and colour augmentation belong to the compiled step, and no side copies to the
  device, so neither is measured.
  """
  config = msgspec.convert(task.config, DataConfig)
  threads = dataclasses.replace(config.streaming, decode_threads=task.threads)
  dataset = open_dataset(dataclasses.replace(config, streaming=threads), seed=0)
  split = dataclasses.replace(dataset.splits["train"], size=task.examples)
  stream = training_batches(split, seed=0, batch_size=task.batch_size, first_step=0)
  # Records that cannot be decoded have weight 0, and do not count as images.
  counts = (int(batch["weight"].sum()) for batch in prefetch(stream, lambda batch: batch))
  return Work(counts, warm_up=task.examples)
