"""Small sets of made pictures, written by tensorflow-datasets without a network, and as folders."""

import io
import pathlib

import numpy as np
import PIL.Image

CLASSES = ("circle", "square", "star")


def picture(number: int) -> bytes:
  """A PNG of coloured noise, of a size that follows from its number."""
  generator = np.random.default_rng(number)
  noise = generator.integers(0, 256, (20 + number % 7, 30 - number % 5, 3), np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(noise).save(file, "PNG")
  return file.getvalue()


def write_tfds_set(
  folder: pathlib.Path,
  name: str,
  splits: dict[str, int],
  *,
  file_format: str = "tfrecord",
  num_shards: int = 4,
  unlabelled: tuple[str, ...] = (),
  supervised: bool = True,
  config: str | None = None,
  version: str = "1.0.0",
) -> None:
  """Prepares a set of `splits`, by name and size, in the data directory `folder`.

  Label of example i is i modulo 3; where `unlabelled`, -1. Pictures are numbered through all
  splits.
  """
  import tensorflow_datasets as tfds

  class MadeBuilder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=self._feature_spec,
        supervised_keys=("image", "label") if supervised else None,
      )

  start, data = 0, {}
  for split, size in splits.items():
    data[split] = [
      (i, {"image": io.BytesIO(picture(start + i)), "label": -1 if split in unlabelled else i % 3})
      for i in range(size)
    ]
    start += size
  builder = MadeBuilder(
    name=name,
    version=version,
    config=config,
    features=tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=CLASSES),
      }
    ),
    split_datasets=data,
    data_dir=folder,
    file_format=file_format,
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=min(num_shards, *splits.values()))
  )


def write_folder_set(root: pathlib.Path, counts: dict[str, dict[str, int]]) -> pathlib.Path:
  """Writes ROOT/SPLIT/CLASS/NUMBER.png for each split, class and number below the class's count."""
  number = 0
  for split, classes in counts.items():
    for name, count in classes.items():
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        (folder / f"{i}.png").write_bytes(picture(number))
        number += 1
  return root
