"""What is done to pixels: by itself, as a config asks for it, and within the views."""

import dataclasses
import io

import jax
import numpy as np
import PIL.Image
import pytest
from pictures import noise

from resnet_jax.data import DataConfig, StreamingConfig, open_dataset
from resnet_jax.data.decode import decode_window, decode_windows
from resnet_jax.data.preprocessing import (
  Preprocessing,
  imagenet_preprocessing,
  make_preprocessing,
  with_preprocessing,
)
from resnet_jax.data.resident import resident_dataset
from resnet_jax.data.whole_images import whole_image
from resnet_jax.data.windows import center_window, five_windows
from resnet_jax.errors import UserError

CAFFE = Preprocessing((103.939, 116.779, 123.68), channels="BGR", size=8)
TORCH = dataclasses.replace(imagenet_preprocessing(), size=8, resize=None)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def made(config):
  arrays = {name: (PIXELS, np.arange(5)) for name in ("train", "validation")}
  return resident_dataset("made", arrays, [str(i) for i in range(5)], config)


def seen(dataset, split="validation"):
  split = dataset.splits[split]
  batch = split.fetch(np.zeros(5, int), np.arange(5))
  return split.view(split.constants, batch, jax.random.key(0))[0]


@pytest.mark.parametrize("preprocessing", [CAFFE, TORCH])
def test_a_config_shows_pixels_as_the_weights_that_it_follows_expect(preprocessing):
  dataset = made(with_preprocessing(DataConfig("made"), preprocessing))
  np.testing.assert_array_equal(seen(dataset), preprocessing(PIXELS))
  np.testing.assert_array_equal(seen(dataset), dataset.preprocessing(PIXELS))


@pytest.mark.parametrize("mean", ["pixel", "channel"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_data_set_s_own_mean_is_scaled_and_ordered_with_its_pixels(mean, channels):
  config = DataConfig("made", mean=mean, scale=255.0, std=(0.5, 1.0, 2.0), channels=channels)
  x = PIXELS.astype(np.float64)
  want = (x - x.mean(0 if mean == "pixel" else (0, 1, 2))) / 255
  want = (want if channels == "RGB" else want[..., ::-1]) / [0.5, 1.0, 2.0]
  dataset = made(config)
  np.testing.assert_allclose(seen(dataset), want, atol=1e-5)
  np.testing.assert_array_equal(seen(dataset), dataset.preprocessing(PIXELS))


def test_from_crops_of_another_size_the_mean_image_s_colour_is_subtracted():
  image = np.random.default_rng(1).uniform(0, 255, (8, 8, 3)).astype(np.float32)
  preprocessing = Preprocessing((0.0, 0.0, 0.0), mean_image=image)
  np.testing.assert_array_equal(preprocessing(PIXELS), PIXELS - image)
  np.testing.assert_allclose(preprocessing(PIXELS[:, 1:]), PIXELS[:, 1:] - image.mean((0, 1)))


def test_training_pads_with_what_is_zero_after_normalising():
  config = with_preprocessing(DataConfig("made"), TORCH)
  split = made(config).splits["train"]
  batch = split.fetch(np.arange(5), np.arange(5))
  images, _ = split.view(split.constants, batch, jax.random.key(0))
  assert (np.asarray(images) == 0).all(-1).any()
  assert np.asarray(images).max() < 3


def test_colour_noise_is_in_units_of_pixels_whatever_they_are_divided_by(test_folder):
  plain, scaled = (
    open_dataset(dataclasses.replace(test_folder, mean=mean, scale=scale, std=std), 0)
    for mean, scale, std in (((0.0,) * 3, 1.0, (1.0,)), ((0.0,) * 3, 255.0, (0.25,)))
  )
  views = [seen(dataset, "train") for dataset in (plain, scaled)]
  np.testing.assert_allclose(views[0] / 255 / 0.25, views[1], atol=1e-5)


@pytest.fixture
def test_folder(tmp_path):
  """A folder that nothing has been prepared for."""
  for name in ("a", "b"):
    (tmp_path / "train" / name).mkdir(parents=True)
    for i in range(3):
      noise(20, 24, i).save(tmp_path / "train" / name / f"{i}.png")
  settings = StreamingConfig(
    image_size=16, short_side_min=16, short_side_max=20, short_side_evaluation=16
  )
  return DataConfig("folder", str(tmp_path), streaming=settings)


def test_a_folder_needs_no_preparation_where_the_mean_is_given(test_folder):
  with pytest.raises(UserError, match="is not prepared"):
    open_dataset(test_folder, 0)
  given = dataclasses.replace(test_folder, mean=(1.0, 2.0, 3.0))
  assert open_dataset(given, 0).preprocessing.mean == (1.0, 2.0, 3.0)
  settings = dataclasses.replace(given.streaming, color_components="training_split")
  with pytest.raises(UserError, match="is not prepared"):
    open_dataset(dataclasses.replace(given, streaming=settings), 0)


@pytest.mark.parametrize(
  ("fields", "channels", "words"),
  [
    (
      {"mean": (1.0, 2.0)},
      3,
      "data.mean, .* has 2 numbers, and the pictures of made have 3 channel",
    ),
    ({"std": (1.0, 2.0, 3.0)}, 1, "data.std, .* has 3 numbers"),
    ({"channels": "BGR"}, 1, "data.channels=BGR"),
  ],
)
def test_numbers_that_do_not_fit_the_pictures_are_named(fields, channels, words):
  with pytest.raises(UserError, match=words):
    make_preprocessing(DataConfig("made", **fields), np.zeros(channels), 8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_is_that_of_the_whole_picture_resized(interpolation):
  picture = noise(150, 200)
  file = io.BytesIO()
  picture.save(file, "JPEG", quality=95)
  encoded = file.getvalue()
  whole = PIL.Image.open(io.BytesIO(encoded))
  resized = whole.resize((85, 64), PIL.Image.Resampling[interpolation.upper()])
  want = np.asarray(resized, int)[8:56, 18:66]

  def window(height, width):
    return center_window(height, width, 64, 48)

  got = decode_window(encoded, window, (48, 48), interpolation=interpolation)
  # The file's 200 columns at a short side of 64 are 85.33: Pillow's own resizing has 85.
  assert np.abs(got - want).mean() < 6
  np.testing.assert_array_equal(
    got,
    decode_windows(encoded, lambda h, w: (window(h, w),), (48, 48), interpolation)[0],
  )
  square = np.asarray(noise(80, 80))
  pillow = PIL.Image.fromarray(square).resize((48, 48), PIL.Image.Resampling[interpolation.upper()])
  np.testing.assert_array_equal(whole_image(square, 48, 1, interpolation), pillow)
  five = decode_windows(square, lambda h, w: five_windows(h, w, 48, 48), (48, 48), interpolation)
  np.testing.assert_array_equal(five[4], pillow)
