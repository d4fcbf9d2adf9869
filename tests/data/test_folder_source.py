"""Images in folders: which are found, in which order, and what a user is told."""

import collections
import os
import subprocess
import sys

import numpy as np
import pytest
from made_sets import write_folder_set

from resnet_jax.data import DataConfig, StreamingConfig, open_dataset
from resnet_jax.data.dataset import fingerprint, require_same_data
from resnet_jax.data.folder_source import FolderSource, folder_splits
from resnet_jax.data.prepare import prepare
from resnet_jax.errors import UserError

SMALL = StreamingConfig(
  image_size=16, short_side_min=18, short_side_max=24, short_side_evaluation=18, decode_threads=2
)
COUNTS = {"cat": 30, "ant": 20, "dog": 10}


@pytest.fixture
def root(tmp_path):
  """Sixty training and six validation pictures of three classes."""
  return write_folder_set(tmp_path / "pictures", {"train": COUNTS, "val": dict.fromkeys(COUNTS, 2)})


def located(source):
  return [source.locate(i) for i in range(len(source))]


def config(root, **changes):
  return DataConfig("folder", str(root), streaming=SMALL, **changes)


def get_ready(root, **options):
  prepare("folder", str(root), image_size=16, short_side=18, **options)


def test_classes_are_the_sorted_folders_and_labels_their_numbers(root):
  source = FolderSource(root, "train")
  assert source.class_names == ("ant", "cat", "dog")
  assert len(source) == 60
  for i, path in enumerate(located(source)):
    encoded, label = source.read(i)
    with open(path, "rb") as file:
      assert encoded == file.read()
    assert os.path.basename(os.path.dirname(path)) == source.class_names[label]


def test_the_order_is_shuffled_and_follows_from_the_paths_below_the_split_alone(root, tmp_path):
  order = [os.path.relpath(path, root) for path in located(FolderSource(root, "train"))]
  assert order != sorted(order)
  other = tmp_path / "elsewhere" / "again"
  # Made in another order, as another file system may list them.
  for path in sorted(order, reverse=True):
    (other / path).parent.mkdir(parents=True, exist_ok=True)
    (other / path).write_bytes((root / path).read_bytes())
  again = FolderSource(other, "train")
  assert [os.path.relpath(path, other) for path in located(again)] == order
  assert again.identity == FolderSource(root, "train").identity
  # Pinned: another version of this package must not move the held-out examples.
  assert order[:4] == [
    "train/ant/15.png",
    "train/cat/13.png",
    "train/dog/9.png",
    "train/dog/5.png",
  ]


def test_the_last_examples_hold_each_class_in_about_its_share(tmp_path):
  for name, count in (("a", 300), ("b", 600), ("c", 100)):
    folder = tmp_path / "train" / name
    folder.mkdir(parents=True)
    for i in range(count):
      (folder / f"{i}.jpg").touch()
  source = FolderSource(tmp_path, "train")
  last = [located(source)[i].split(os.sep)[-2] for i in range(800, 1000)]
  shares = collections.Counter(last)
  assert abs(shares["a"] - 60) < 25
  assert abs(shares["b"] - 120) < 25
  assert abs(shares["c"] - 20) < 15


def test_folders_below_a_class_belong_to_it_and_what_is_no_image_is_ignored(root):
  ant = root / "train" / "ant"
  (ant / "more" / "deep").mkdir(parents=True)
  for name in ("more/x.JPG", "more/deep/y.webp", "z.jpeg"):
    (ant / name).touch()
  for name in ("notes.txt", ".hidden.png", "more/Thumbs.db", "noextension"):
    (ant / name).touch()
  (ant / ".cache").mkdir()
  (ant / ".cache" / "a.png").touch()
  (ant / "folder.png").mkdir()
  (root / "train" / ".git").mkdir()
  (root / "train" / "README.md").touch()
  source = FolderSource(root, "train")
  assert len(source) == 63
  assert source.class_names == ("ant", "cat", "dog")
  assert {os.path.relpath(p, ant) for p in located(source)} >= {"more/x.JPG", "more/deep/y.webp"}


def test_links_to_files_and_classes_are_followed_and_circles_are_not(root, tmp_path):
  (tmp_path / "class").mkdir()
  (tmp_path / "class" / "0.png").write_bytes((root / "train" / "ant" / "0.png").read_bytes())
  (root / "train" / "emu").symlink_to(tmp_path / "class")
  (root / "train" / "ant" / "link.png").symlink_to(tmp_path / "class" / "0.png")
  (root / "train" / "ant" / "circle").symlink_to(root / "train")
  source = FolderSource(root, "train")
  assert len(source) == 62
  assert source.class_names[-1] == "emu"


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_has_either_name_and_the_labels_of_train(root, name):
  (root / "val").rename(root / name)
  for path in (root / name / "ant").iterdir():
    path.unlink()
  (root / name / "ant").rmdir()
  assert folder_splits(str(root)) == ("train", "validation")
  source = FolderSource(root, "validation")
  assert source.class_names == ("ant", "cat", "dog")
  assert sorted(source.read(i)[1] for i in range(len(source))) == [1, 1, 2, 2]


def test_a_test_folder_without_classes_is_no_split(root):
  (root / "test").mkdir()
  (root / "test" / "unknown.png").touch()
  assert folder_splits(str(root)) == ("train", "validation")
  (root / "test" / "cat").mkdir()
  assert folder_splits(str(root)) == ("train", "validation", "test")


def test_prepared_folders_open_with_their_splits(root, capsys):
  write_folder_set(root, {"test": {"dog": 3}})
  get_ready(root)
  assert "the mean of 60 images" in capsys.readouterr().out
  dataset = open_dataset(config(root), seed=0)
  sizes = {name: split.size for name, split in dataset.splits.items()}
  assert sizes == {"train": 60, "validation": 6, "test": 3}
  assert (dataset.name, dataset.class_names) == ("folder", ("ant", "cat", "dog"))
  batch = dataset.splits["test"].fetch(np.zeros(3, int), np.arange(3))
  np.testing.assert_array_equal(batch["label"], 2)
  np.testing.assert_array_equal(batch["weight"], 1)
  get_ready(root)
  assert "Keeping" in capsys.readouterr().out


def test_without_a_validation_folder_examples_are_held_out(tmp_path):
  root = write_folder_set(tmp_path, {"train": COUNTS})
  get_ready(root)
  assert set(open_dataset(config(root), 0).splits) == {"train"}
  splits = open_dataset(config(root, held_out=20), 0).splits
  assert {name: split.size for name, split in splits.items()} == {"train": 40, "validation": 20}
  labels = splits["validation"].fetch(np.zeros(20, int), np.arange(20))["label"]
  assert set(labels.tolist()) == {0, 1, 2}


def test_holding_out_beside_a_validation_folder_is_refused(root):
  get_ready(root)
  with pytest.raises(UserError, match="folder has a validation split; set it to 0"):
    open_dataset(config(root, held_out=5), 0)


def test_a_run_does_not_resume_on_other_files(root):
  get_ready(root)
  saved = fingerprint(open_dataset(config(root), 0))
  require_same_data(open_dataset(config(root), 1), saved)
  # Checkpoints of earlier versions hold no hash of the files.
  require_same_data(
    open_dataset(config(root), 0), {name: text.split(", files")[0] for name, text in saved.items()}
  )
  (root / "val" / "ant" / "0.png").rename(root / "val" / "cat" / "9.png")
  with pytest.raises(UserError, match="the validation split of folder is not the one"):
    require_same_data(open_dataset(config(root), 0), saved)


def test_a_file_that_vanishes_is_named(root):
  source = FolderSource(root, "train")
  os.unlink(source.locate(7))
  with pytest.raises(OSError, match=os.path.basename(source.locate(7))):
    source.read(7)
  results = source.read_many([6, 7, 8])
  assert [isinstance(result, OSError) for result in results] == [False, True, False]
  assert results[0] == source.read(6)


def test_a_number_out_of_range_is_an_index_error(root):
  source = FolderSource(root, "train")
  for number in (-1, 60):
    with pytest.raises(IndexError):
      source.read(number)


def nothing(root):
  for path in root.iterdir():
    path.rename(path.parent.parent / path.name)


def flat(root):
  (root / "train").rename(root / "all")
  (root / "all" / "ant").rename(root / "train")


def empty_class(root):
  (root / "train" / "eel").mkdir()


def unknown_class(root):
  (root / "val" / "eel").mkdir()


def both(root):
  (root / "validation").mkdir()


def no_validation_images(root):
  for path in (root / "val").rglob("*.png"):
    path.unlink()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (nothing, r"train is no folder: expected are ROOT/train/<class>/"),
    (flat, r"train holds no folders, one a class: expected are ROOT/train/<class>/"),
    (empty_class, r"train/eel holds no images: add some, or remove the folder"),
    (unknown_class, r"val/eel: no such class in .*train; remove the folder, or name it"),
    (both, r"holds validation and val: remove or rename one of them"),
    (no_validation_images, r"val holds no images: expected are"),
  ],
)
def test_a_folder_of_another_shape_costs_a_short_message(root, change, message):
  get_ready(root)
  change(root)
  if (root / "resnet_jax").exists():
    with pytest.raises(UserError, match=message) as error:
      open_dataset(config(root), 0)
  else:
    with pytest.raises(UserError, match=message) as error:
      get_ready(root)
  assert "\n" not in str(error.value)


def test_the_root_must_be_named_and_local():
  with pytest.raises(UserError, match=r"needs data\.data_dir"):
    prepare("folder", None)
  with pytest.raises(UserError, match="mount or copy it"):
    prepare("folder", "gs://bucket/pictures")


def test_folders_that_are_not_prepared_say_the_command(root):
  command = f"run `resnet-jax prepare folder --data-dir {root} --image-size 16 --short-side 18`"
  with pytest.raises(UserError, match=command):
    open_dataset(config(root), 0)


def test_statistics_of_other_files_are_warned_of_and_made_again(root, capsys, caplog):
  get_ready(root)
  get_ready(root)
  assert "Keeping" in capsys.readouterr().out
  added = next(path for path in (root / "train").rglob("*") if path.is_file())
  added.with_name(f"another{added.suffix}").write_bytes(added.read_bytes())
  open_dataset(config(root), 0)
  [message] = [r.getMessage() for r in caplog.records]
  assert "made of other files" in message and "--image-size 16 --short-side 18" in message
  get_ready(root)
  assert "Replacing" in capsys.readouterr().out
  caplog.clear()
  open_dataset(config(root), 0)
  assert not caplog.records


def test_a_mean_image_of_another_view_is_warned_of(root, caplog):
  prepare("folder", str(root), image_size=16, short_side=24)
  open_dataset(config(root), 0)
  [message] = [r.getMessage() for r in caplog.records]
  assert "made at a short side of 24" in message and "--short-side 18" in message


def test_wrong_splits_are_found_before_anything_is_averaged(root):
  (root / "val" / "unheard_of").mkdir(parents=True)
  with pytest.raises(UserError, match=r"unheard_of: no such class"):
    get_ready(root)


def test_folders_need_no_tensorflow(root):
  code = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "fsspec"):
  sys.modules[name] = None
from resnet_jax.data import DataConfig, StreamingConfig, open_dataset
from resnet_jax.data.prepare import prepare
prepare("folder", {str(root)!r}, image_size=16, short_side=18)
sizes = dict(short_side_min=18, short_side_max=24, short_side_evaluation=18)
settings = StreamingConfig(image_size=16, **sizes)
dataset = open_dataset(DataConfig("folder", {str(root)!r}, streaming=settings), 0)
print(dataset.splits["train"].size)
"""
  result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
  assert result.stdout.endswith("60\n"), result.stderr
