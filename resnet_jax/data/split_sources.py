"""Which source, and which of its examples, each split of a streamed data set is read from."""

from resnet_jax.data.config import DataConfig
from resnet_jax.data.dataset import kept_for_training
from resnet_jax.data.example_source import ExampleSource, UndecodableError
from resnet_jax.data.folder_source import FolderSource, folder_root, folder_splits
from resnet_jax.data.tfds_prepared import open_prepared
from resnet_jax.data.tfds_source import TfdsSource

FOLDER = "folder"

# Of so many examples of a test split it is asked whether they have labels.
_LABELS_LOOKED_AT = 8


def open_sources(
  config: DataConfig, class_names: tuple[str, ...] | None = None
) -> dict[str, ExampleSource]:
  """The splits of a streamed data set as they are stored: train, validation, test.

  A test split is there only if it has labels; tensorflow-datasets holds some without.

  Args:
    config: The data section of a config: `dataset`, `data_dir` and `prepared_dir` count.
    class_names: Of folders, the names of all classes in the order of their labels; then `train`
      need not be there.

  Raises:
    UserError: The data set is not there, or cannot be read.
  """
  if config.dataset == FOLDER:
    root = folder_root(config.data_dir)
    there = folder_splits(config.data_dir)
    if class_names is not None:
      return {name: FolderSource(root, name, class_names) for name in there}
    train = FolderSource(root, "train")
    others = {
      name: FolderSource(root, name, train.class_names) for name in there if name != "train"
    }
    return {"train": train, **others}
  opened = open_prepared(config.dataset, config.data_dir, config.prepared_dir)
  sources: dict[str, ExampleSource] = {}
  for name in ("train", "validation", "test"):
    if name == "train" or name in opened.info.splits:
      sources[name] = TfdsSource(
        config.dataset, name, config.data_dir, config.prepared_dir, opened=opened
      )
  if "test" in sources and not _has_labels(sources["test"]):
    del sources["test"]
  return sources


def split_sources(
  config: DataConfig, class_names: tuple[str, ...] | None = None
) -> dict[str, tuple[ExampleSource, range]]:
  """For each split of a run a source, and which of its examples belong to the split.

  The validation split is the data set's own, or else the last `config.held_out` training examples,
  which then do not train.

  Args:
    config: The data section of a config.
    class_names: As `open_sources`'s.

  Raises:
    UserError: See `open_sources`; or examples are held out beside a validation split, or too many.
  """
  sources = open_sources(config, class_names)
  parts = {name: (source, range(len(source))) for name, source in sources.items()}
  train = sources.get("train")
  if train is None:
    return parts
  kept = kept_for_training(config, len(train), "validation" in sources)
  parts["train"] = (train, range(kept))
  if kept < len(train):
    parts["validation"] = (train, range(kept, len(train)))
  return parts


def _has_labels(source: ExampleSource) -> bool:
  count = min(len(source), _LABELS_LOOKED_AT)
  found = source.read_many([k * len(source) // count for k in range(count)])
  for example in found:
    if isinstance(example, OSError):
      raise example
  return not all(isinstance(example, UndecodableError) for example in found)
