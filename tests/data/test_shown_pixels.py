"""Every way from a file to pixels shows the same ones: none turned by a tag, none coarser."""

import dataclasses
import functools
import io

import numpy as np
import PIL.Image
import pytest
from made_jpegs import SMALL, dataset_of
from pictures import encode, scene

from resnet_jax.data import decode, evaluation_views, whole_images
from resnet_jax.data.cached_source import CachedSource
from resnet_jax.data.example_source import ExampleSource
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.resample import resize_window
from resnet_jax.data.statistics import compute_statistics
from resnet_jax.data.windows import center_window
from resnet_jax.evaluation.classifier import make_classifier

ORIENTATION = 0x0112
# (format, mode, options). The large ones are beyond what is decoded in part.
KINDS = {
  "jpeg": ("JPEG", "RGB", {}),
  "progressive": ("JPEG", "RGB", {"progressive": True}),
  "cmyk": ("JPEG", "CMYK", {}),
  "png": ("PNG", "RGB", {}),
  "webp": ("WEBP", "RGB", {"lossless": True}),
  "tiff": ("TIFF", "RGB", {}),
}


class One(ExampleSource):
  """A set of one encoded picture, twice."""

  class_names = ("a", "b")

  def __init__(self, encoded):
    self._encoded = encoded

  def __len__(self):
    return 2

  def read(self, i):
    return self._encoded, i

  def locate(self, i):
    return f"picture {i}"


def shown(encoded, interpolation="bilinear"):
  """What every part of the package makes of the picture: arrays by name."""
  source = One(encoded)
  settings = dataclasses.replace(SMALL, interpolation=interpolation)
  splits = dataset_of(source, settings=settings).splits
  first, zero = np.zeros(1, int), np.zeros(1, int)
  window = functools.partial(center_window, short_side=28, size=24)
  stored = whole_images.stored_shapes(splits["validation"])
  groups = whole_images.group_by_shape(stored, 28, 1, lambda height, width: 2)
  (dense,) = whole_images.whole_image_batches(splits["validation"], groups, interpolation)
  classifier = make_classifier(
    "net",
    lambda pixels: pixels,
    Preprocessing((0.0,) * 3, size=24, resize=28, interpolation=interpolation),
    3,
    None,
  )
  return {
    "whole": decode.decode_image(encoded),
    "shape": np.array(decode.image_shape(encoded)),
    "window": decode.decode_window(encoded, window, (24, 24), interpolation=interpolation),
    "validation": splits["validation"].fetch(zero, first)["image"][0],
    "ten crops": evaluation_views.ten_crops(splits["validation"], settings).fetch(zero, first)[
      "image"
    ][0, 4],
    "dense": dense["image"][0],
    "prediction": classifier.crop(encoded),
    "training": splits["train"].fetch(zero, first)["image"][0],
    "cached": CachedSource(source, "decoded").read_many([0])[0][0],
    "statistics": compute_statistics(source, image_size=24, short_side=28, threads=1).mean_image,
  }


@pytest.mark.parametrize("size", [(60, 44), (1210, 1180)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_orientation_that_a_file_names_is_ignored_everywhere(kind, size):
  file_format, mode, options = KINDS[kind]
  if size[0] > 1000 and kind not in ("jpeg", "progressive"):
    size = (70, 44)
  image = scene(*size).convert(mode)
  exif = PIL.Image.Exif()
  exif[ORIENTATION] = 6  # "Rotate by 90 degrees to display."
  plain = encode(image, file_format, **options)
  tagged = encode(image, file_format, exif=exif, **options)
  assert PIL.Image.open(io.BytesIO(tagged)).getexif()[ORIENTATION] == 6
  expected, found = shown(plain), shown(tagged)
  for name, pixels in expected.items():
    np.testing.assert_array_equal(found[name], pixels, err_msg=name)
  assert tuple(found["shape"]) == found["whole"].shape[:2] == size


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 260), (1210, 1180)])
def test_evaluation_shows_large_pictures_as_decoded_in_full(interpolation, size):
  encoded = encode(scene(*size), quality=95)
  full = decode.decode_image(encoded)
  window = center_window(*size, short_side=28, size=24)
  expected = resize_window(full, window, (24, 24), interpolation).astype(int)
  found = shown(encoded, interpolation)
  # Of a small picture the part that is shown is resized as planes, with a rounding of its own.
  tolerance = 0 if size[0] > 1000 or interpolation == "bicubic" else 1
  for name in ("window", "validation", "ten crops", "prediction"):
    assert np.abs(found[name] - expected).max() <= tolerance, name
  reduced = decode.decode_window(
    encoded,
    functools.partial(center_window, short_side=28, size=24),
    (24, 24),
    quick=True,
    interpolation=interpolation,
  )
  if tolerance == 0:
    assert np.abs(reduced - expected).max() > 0  # So the test would see it.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_each_orientation_of_a_tiff_is_ignored(orientation, compression):
  image = scene(30, 44)
  encoded = encode(image, "TIFF", tiffinfo={ORIENTATION: orientation}, compression=compression)
  np.testing.assert_array_equal(decode.decode_image(encoded), np.asarray(image))
  assert decode.image_shape(encoded) == (30, 44)
