"""Tests of resnet_jax.data.evaluation_views."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from made_jpegs import SMALL, MadeJpegs, dataset_of, picture

from resnet_jax.data import (
  DataConfig,
  decode,
  evaluation_batches,
  evaluation_views,
  open_dataset,
  whole_images,
)


def with_pillow(i: int, short_side: int) -> np.ndarray:
  image = PIL.Image.fromarray(decode.decode_image(picture(i)))
  scale = short_side / min(image.size)
  return np.asarray(
    image.resize(
      [int(np.floor(side * scale + 0.5)) for side in image.size], PIL.Image.Resampling.BILINEAR
    )
  )


def test_ten_crops_are_corners_and_centre_and_their_mirror_images():
  split = evaluation_views.ten_crops(dataset_of(MadeJpegs(6)).splits["validation"], SMALL)
  batches = list(evaluation_batches(split, 4))
  assert [batch["image"].shape for batch in batches] == [(4, 5, 24, 24, 3)] * 2
  images, labels = jax.jit(split.view)(split.constants, batches[0], jax.random.key(0))
  assert images.shape == (4, 10, 24, 24, 3) and images.dtype == jnp.float32
  np.testing.assert_array_equal(labels, [0, 1, 0, 1])
  np.testing.assert_array_equal(images[:, 5:], images[:, :5, :, ::-1])
  for i in range(4):
    whole = with_pillow(i, SMALL.short_side_evaluation).astype(float)
    height, width = whole.shape[:2]
    corners = [whole[:24, :24], whole[:24, -24:], whole[-24:, :24], whole[-24:, -24:]]
    top, left = (height - 24) // 2, (width - 24) // 2
    corners.append(whole[top : top + 24, left : left + 24])
    for crop, want in zip(images[i], corners, strict=False):
      assert np.abs(crop - want).max() <= 2


def test_the_centre_of_the_ten_is_the_one_crop():
  dataset = dataset_of(MadeJpegs(6))
  ten = evaluation_views.ten_crops(dataset.splits["validation"], SMALL)
  examples = np.arange(6)
  one = dataset.splits["validation"].fetch(np.zeros(6, int), examples)
  five = ten.fetch(np.zeros(6, int), examples)
  np.testing.assert_array_equal(five["image"][:, 4], one["image"])
  np.testing.assert_array_equal(five["label"], one["label"])


def test_a_bad_record_has_weight_zero_in_ten_crops_too():
  split = dataset_of(MadeJpegs(4, {2: b"nothing"})).splits["validation"]
  batch = evaluation_views.ten_crops(split, SMALL).fetch(np.zeros(4, int), np.arange(4))
  np.testing.assert_array_equal(batch["weight"], [1, 1, 0, 1])
  assert not batch["image"][2].any()


def test_a_resident_set_has_no_ten_crops():
  split = open_dataset(DataConfig(dataset="digits"), 0).splits["validation"]
  with pytest.raises(TypeError, match="validation split is not decoded"):
    evaluation_views.ten_crops(split, SMALL)


@pytest.mark.parametrize("short_side", [20, 28, 40, 64])
def test_whole_images_have_the_short_side_asked_for(short_side):
  for i in range(8):
    got = whole_images.whole_image(picture(i), short_side)
    assert min(got.shape[:2]) == short_side
    assert np.abs(got.astype(int) - with_pillow(i, short_side)).max() <= 1
    again = whole_images.whole_image(decode.decode_image(picture(i)), short_side)
    np.testing.assert_array_equal(again, got)


class MeanTest(chex.TestCase):
  """The mean image fits images of its size alone."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_from_images_of_another_size_the_mean_colour_is_subtracted(self):
    mean = np.random.default_rng(0).uniform(0, 255, (24, 24, 3)).astype(np.float32)
    for size, want in (((24, 24), mean), ((40, 33), mean.mean((0, 1)))):
      image = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
      batch = {"image": image, "label": np.arange(2)}
      view = self.variant(
        lambda batch: evaluation_views.plain_view({"mean": mean}, batch, jax.random.key(0))
      )
      images, _ = view(batch)
      np.testing.assert_allclose(images, image - want, atol=1e-4)
