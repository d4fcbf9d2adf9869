"""Any set of labelled images that tensorflow-datasets has prepared, by its name."""

import io
import json
import shutil
from typing import ClassVar

import numpy as np
import pytest
from made_sets import CLASSES, picture, write_tfds_set

from resnet_jax.data import DataConfig, StreamingConfig, open_dataset
from resnet_jax.data.dataset import fingerprint, require_same_data
from resnet_jax.data.prepare import prepare
from resnet_jax.data.split_sources import open_sources, split_sources
from resnet_jax.data.tfds_prepared import find_folder, find_prepared
from resnet_jax.errors import UserError

SMALL = StreamingConfig(
  image_size=16, short_side_min=18, short_side_max=24, short_side_evaluation=18, decode_threads=2
)
FORMATS = ("tfrecord", "array_record")


@pytest.fixture(scope="module")
def shapes_dirs(tmp_path_factory):
  """By format, a data directory with a prepared set `shapes` of 40 training and 8 test images."""
  pytest.importorskip("tensorflow_datasets")
  folders = {}
  for file_format in FORMATS:
    folders[file_format] = tmp_path_factory.mktemp(file_format)
    write_tfds_set(
      folders[file_format], "shapes", {"train": 40, "test": 8}, file_format=file_format
    )
    get_ready("shapes", folders[file_format])
  return folders


def get_ready(name, folder, **options):
  prepare(name, str(folder), image_size=16, short_side=18, **options)


def config(name, folder, **changes):
  return DataConfig(name, str(folder), streaming=SMALL, **changes)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_prepared_set_opens_by_its_name_with_its_test_split(shapes_dirs, file_format):
  dataset = open_dataset(config("shapes", shapes_dirs[file_format]), 0)
  assert {name: split.size for name, split in dataset.splits.items()} == {"train": 40, "test": 8}
  assert dataset.class_names == CLASSES
  split = dataset.splits["test"]
  batch = split.fetch(np.zeros(8, int), np.arange(8))
  assert batch["weight"].all()
  assert np.bincount(batch["label"]).tolist() == [3, 3, 2]


@pytest.mark.parametrize("file_format", FORMATS)
def test_examples_are_held_out_where_there_is_no_validation_split(shapes_dirs, file_format):
  parts = split_sources(config("shapes", shapes_dirs[file_format], held_out=10))
  assert {name: examples for name, (_, examples) in parts.items()} == {
    "train": range(30),
    "validation": range(30, 40),
    "test": range(8),
  }
  assert parts["validation"][0] is parts["train"][0]


def test_both_formats_hold_the_same_examples(shapes_dirs):
  sources = [open_sources(config("shapes", shapes_dirs[name]))["train"] for name in FORMATS]
  numbers = [5, 6, 39, 0, 7]
  examples = [sorted(source.read_many(range(40))) for source in sources]
  assert examples[0] == examples[1]
  for source in sources:
    assert source.read_many(numbers) == [source.read(i) for i in numbers]
  assert sources[0].identity != sources[1].identity


def test_a_test_split_without_labels_is_no_split(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  splits = {"train": 9, "validation": 3, "test": 6}
  write_tfds_set(tmp_path, "secret", splits, unlabelled=("test",))
  get_ready("secret", tmp_path)
  dataset = open_dataset(config("secret", tmp_path), 0)
  assert set(dataset.splits) == {"train", "validation"}
  with pytest.raises(UserError, match="secret has a validation split; set it to 0"):
    open_dataset(config("secret", tmp_path, held_out=2), 0)


def test_the_only_image_and_label_are_taken_where_the_set_names_no_pair(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  write_tfds_set(tmp_path, "unnamed", {"train": 9}, supervised=False)
  get_ready("unnamed", tmp_path)
  assert open_dataset(config("unnamed", tmp_path), 0).class_names == CLASSES


def test_a_set_of_other_things_than_labelled_images_is_refused(shapes_dirs, tmp_path):
  folder = shutil.copytree(shapes_dirs["tfrecord"], tmp_path / "copy")
  [path] = folder.rglob("features.json")
  features = json.loads(path.read_text())
  del features["featuresDict"]["features"]["label"]
  path.write_text(json.dumps(features))
  [path] = folder.rglob("dataset_info.json")
  info = json.loads(path.read_text())
  info.pop("supervisedKeys", None)
  path.write_text(json.dumps(info))
  with pytest.raises(UserError, match="shapes is not a data set of images with one label each"):
    open_dataset(config("shapes", folder), 0)


def test_a_damaged_description_is_named(shapes_dirs, tmp_path):
  folder = shutil.copytree(shapes_dirs["tfrecord"], tmp_path / "copy")
  (folder / "shapes" / "1.0.0" / "features.json").write_text("{")
  with pytest.raises(UserError, match=r"shapes/1\.0\.0 has a damaged description") as error:
    open_dataset(config("shapes", folder), 0)
  assert "\n" not in str(error.value)


def test_configurations_and_versions_are_chosen_by_name_the_newest_otherwise(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  for version, size in (("1.0.0", 3), ("1.10.0", 5), ("1.9.0", 4)):
    write_tfds_set(tmp_path, "sized", {"train": size}, version=version, config="small")

  def size(name):
    return find_prepared(name, str(tmp_path)).info.splits["train"].num_examples

  assert size("sized/small") == size("sized") == 5
  assert size("sized/small:1.9.0") == size("sized:1.9.0") == 4
  assert find_folder("sized/small:2.0.0", str(tmp_path)) is None
  assert find_folder("sized/large", str(tmp_path)) is None
  write_tfds_set(tmp_path, "sized", {"train": 7}, config="large")
  assert size("sized/large") == 7
  with pytest.raises(UserError, match="name one of sized/large, sized/small"):
    find_folder("sized", str(tmp_path))


def test_names_that_are_paths_are_unknown(tmp_path):
  for name in ("../shapes", "/etc", "shapes/../shapes", "", "a b", "gs://shapes"):
    assert find_folder(name, str(tmp_path)) is None


def test_a_folder_that_is_not_finished_is_not_taken(shapes_dirs, tmp_path):
  folder = shutil.copytree(shapes_dirs["tfrecord"], tmp_path / "copy")
  assert find_folder("shapes", str(folder)) is not None
  (folder / "shapes" / "1.0.0" / "dataset_info.json").unlink()
  assert find_folder("shapes", str(folder)) is None


def test_an_unknown_name_is_answered_with_close_ones_and_the_built_in(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  for call in (
    lambda: open_dataset(config("imagenette2", tmp_path), 0),
    lambda: prepare("imagenette2", str(tmp_path)),
  ):
    with pytest.raises(UserError, match="unknown data set 'imagenette2'") as error:
      call()
    message = str(error.value)
    assert "imagenette" in message.split("perhaps")[1]
    assert "digits, cifar10, cifar100, imagenet2012, folder, synthetic" in message
    assert "`resnet-jax prepare NAME`" in message
    assert "\n" not in message


def test_a_known_name_that_is_not_prepared_says_the_command(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError, match=f"resnet-jax prepare tf_flowers --data-dir {tmp_path}"):
    open_dataset(config("tf_flowers", tmp_path), 0)


def test_prepare_runs_the_builder_of_any_set_of_labelled_images(tmp_path, capsys):
  tfds = pytest.importorskip("tensorflow_datasets")

  class PaintedShapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("2.0.0")
    url_infos: ClassVar[dict] = {}  # It is in no package that could hold a file of them.

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
        ),
        supervised_keys=("image", "label"),
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return {"train": self._generate_examples(range(20)), "test": self._generate_examples([30])}

    def _generate_examples(self, numbers):
      for i in numbers:
        yield i, {"image": io.BytesIO(picture(i)), "label": i % 3}

  get_ready("painted_shapes", tmp_path)
  get_ready("painted_shapes", tmp_path)
  assert capsys.readouterr().out.count("Keeping") == 4
  dataset = open_dataset(config("painted_shapes", tmp_path, held_out=5), 0)
  sizes = {name: split.size for name, split in dataset.splits.items()}
  assert sizes == {"train": 15, "validation": 5, "test": 1}


def test_a_set_without_pictures_is_refused_before_anything_is_downloaded(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError, match="imdb_reviews is not a data set of images"):
    prepare("imdb_reviews", str(tmp_path))
  with pytest.raises(UserError, match="tf_flowers/red"):
    prepare("tf_flowers/red", str(tmp_path))


def test_a_set_to_be_downloaded_by_hand_says_how(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError, match="resisc45 must be downloaded by hand into") as error:
    prepare("resisc45", str(tmp_path))
  assert "\n" not in str(error.value)


def test_prepared_files_lie_elsewhere_if_asked_and_a_read_only_set_stays_as_it_is(
  shapes_dirs, tmp_path
):
  folder = shutil.copytree(shapes_dirs["tfrecord"], tmp_path / "data")
  shutil.rmtree(folder / "resnet_jax")
  before = sorted(folder.rglob("*"))
  own = tmp_path / "own"
  with pytest.raises(UserError, match=f"--prepared-dir {own}"):
    open_dataset(config("shapes", folder, prepared_dir=str(own)), 0)
  for path in (folder, *before):
    path.chmod(path.stat().st_mode & ~0o222)
  try:
    get_ready("shapes", folder, own_root=str(own))
    dataset = open_dataset(config("shapes", folder, prepared_dir=str(own)), 0)
    assert dataset.splits["train"].size == 40
  finally:
    for path in (folder, *before):
      path.chmod(path.stat().st_mode | 0o200)
  assert sorted(folder.rglob("*")) == before
  assert {path.name for path in (own / "shapes").iterdir()} == {
    "index-test.npz",
    "index-train.npz",
    "statistics.npz",
  }


def test_where_prepared_files_cannot_go_costs_a_message_before_the_work(shapes_dirs, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="name another folder with --prepared-dir"):
    get_ready("shapes", shapes_dirs["tfrecord"], own_root=str(tmp_path / "file"))
  with pytest.raises(UserError, match="prepare into a local folder"):
    get_ready("shapes", shapes_dirs["tfrecord"], own_root="gs://bucket/own")


def test_a_run_does_not_resume_on_files_of_other_sizes(shapes_dirs, tmp_path):
  saved = fingerprint(open_dataset(config("shapes", shapes_dirs["tfrecord"]), 0))
  moved = shutil.copytree(shapes_dirs["tfrecord"], tmp_path / "moved")
  require_same_data(open_dataset(config("shapes", moved), 0), saved)
  write_tfds_set(tmp_path / "other", "shapes", {"train": 40, "test": 8}, num_shards=3)
  get_ready("shapes", tmp_path / "other")
  shutil.copytree(moved / "resnet_jax", tmp_path / "other" / "resnet_jax", dirs_exist_ok=True)
  with pytest.raises(UserError, match="the train split of shapes is not the one"):
    require_same_data(open_dataset(config("shapes", tmp_path / "other"), 0), saved)
