"""Which files are meant, and what is predicted of them."""

import numpy as np
import PIL.Image
import pytest
import scipy.special

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.evaluation.classifier import make_classifier
from resnet_jax.evaluation.prediction import Prediction, Unreadable, find_pictures, predict

CLASSES = 7
KERNEL = np.random.default_rng(0).normal(0, 0.01, (8 * 8 * 3, CLASSES))


class Network:
  """A network that remembers the shapes it was given."""

  def __init__(self):
    self.shapes = set()

  def __call__(self, pixels):
    self.shapes.add(pixels.shape)
    assert pixels.dtype == np.uint8
    return (pixels.reshape(len(pixels), -1) @ KERNEL).astype(np.float32)


def classifier(network, channels=3, **fields):
  preprocessing = Preprocessing((0.0,) * channels, size=8, **fields)
  return make_classifier("net", network, preprocessing, channels, None)


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(1)
  for name in ("b.png", "a.PNG", "below/c.png", "below/.hidden.png", ".trash/d.png"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path, "PNG")
  (tmp_path / "notes.txt").write_text("no picture")
  (tmp_path / "text.jpg").write_text("no picture either")
  (tmp_path / "empty").mkdir()
  return tmp_path


def test_folders_patterns_and_files_stand_for_files_in_their_order(folder):
  def relative(names):
    return [name.removeprefix(f"{folder}/") for name in names]

  assert relative(find_pictures([str(folder)])) == ["a.PNG", "b.png", "below/c.png", "text.jpg"]
  found = find_pictures([f"{folder}/b.png", f"{folder}/**/*.png", f"{folder}/notes.txt"])
  assert relative(found) == ["b.png", "b.png", "below/c.png", "notes.txt"]
  absent = find_pictures([f"{folder}/empty", f"{folder}/*.gif", f"{folder}/absent.jpg"])
  assert [isinstance(one, Unreadable) for one in absent] == [True, True, False]
  assert absent[0].reason == "a folder without pictures"
  assert absent[1].reason == "no file is called so"


def test_a_file_whose_name_looks_like_a_pattern_is_itself(folder):
  (folder / "b.png").rename(folder / "x[1].png")
  assert find_pictures([str(folder / "x[1].png")]) == [str(folder / "x[1].png")]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_predictions_are_the_softmax_of_each_picture_in_order_whatever_the_batch(
  folder, batch_size
):
  network = Network()
  files = find_pictures([str(folder), str(folder / "absent.png")])
  found = list(predict(classifier(network), files, 3, batch_size))
  assert len(network.shapes) == 1
  # No more are computed than the fewest batches of equal size take.
  assert {shape[0] for shape in network.shapes} == {{1: 1, 2: 2, 3: 3, 100: 5}[batch_size]}
  assert [one.file for one in found] == files
  for one in found:
    if not one.file.lower().endswith("png") or "absent" in one.file:
      assert isinstance(one, Unreadable)
      continue
    pixels = np.asarray(PIL.Image.open(one.file)).astype(float)
    scores = scipy.special.softmax(pixels.reshape(-1) @ KERNEL)
    assert one.classes == tuple(np.argsort(-scores)[:3])
    np.testing.assert_allclose(one.scores, np.sort(scores)[::-1][:3], rtol=1e-4)
  reasons = {one.file: one.reason for one in found if isinstance(one, Unreadable)}
  assert reasons[str(folder / "absent.png")] == "No such file or directory"
  assert reasons[str(folder / "text.jpg")].startswith("no whole picture (none of JPEG, PNG")


def test_of_equal_scores_the_smaller_class_comes_first_and_no_more_than_there_are(folder):
  def constant(pixels):
    return np.zeros((len(pixels), 3), np.float32)

  (one,) = predict(classifier(constant), [str(folder / "b.png")])
  assert one == Prediction(str(folder / "b.png"), (0, 1, 2), (1 / 3, 1 / 3, 1 / 3))


def test_pictures_are_resized_and_cropped_and_made_grey_as_the_network_expects(tmp_path):
  rng = np.random.default_rng(2)
  PIL.Image.fromarray(rng.integers(0, 256, (40, 20, 3), np.uint8)).save(tmp_path / "tall.png")
  shown = []

  def network(pixels):
    shown.append(pixels[0])
    return np.zeros((len(pixels), 2), np.float32)

  files = [str(tmp_path / "tall.png")]
  for channels, fields in ((3, {"resize": 10, "interpolation": "bicubic"}), (1, {})):
    list(predict(classifier(network, channels, **fields), files))
  picture = PIL.Image.open(files[0])
  bicubic = picture.resize((10, 20), PIL.Image.Resampling.BICUBIC).crop((1, 6, 9, 14))
  np.testing.assert_allclose(shown[0].astype(int), bicubic, atol=1)  # rounded in other places
  grey = picture.resize((8, 16), PIL.Image.Resampling.BILINEAR).crop((0, 4, 8, 12)).convert("L")
  np.testing.assert_allclose(shown[1][..., 0].astype(int), grey, atol=1)


def test_outputs_that_are_not_finite_and_sizes_not_known_are_refused(folder):
  def broken(pixels):
    return np.full((len(pixels), 2), np.nan, np.float32)

  with pytest.raises(UserError, match="the outputs of net are not finite"):
    list(predict(classifier(broken), [str(folder / "b.png")]))
  with pytest.raises(UserError, match="which size of pictures net expects is not known"):
    make_classifier("net", broken, Preprocessing((0.0,) * 3), 3, None)
  with pytest.raises(UserError, match="expects 2 channels"):
    make_classifier("net", broken, Preprocessing((0.0,) * 2, size=8), 2, None)
