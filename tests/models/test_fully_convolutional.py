"""The classifier at every place of a larger map, against views and against windows by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models

CLASSES = 5
NETWORKS = {
  "imagenet": (lambda head: models.ResNet((1, 1), width=4, num_classes=CLASSES, head=head), 32, 8),
  "preactivation": (
    lambda head: models.ResNet(
      (1, 1), width=4, num_classes=CLASSES, head=head, order="full_preactivation", stem="cifar"
    ),
    8,
    2,
  ),
  "dilated": (
    lambda head: models.ResNet((1, 1), width=4, num_classes=CLASSES, head=head, output_stride=4),
    16,
    4,
  ),
  "vgg": (
    lambda head: models.VGG((1, 1), width=4, hidden_features=(6,), num_classes=CLASSES, head=head),
    16,
    4,
  ),
}


def made(network, head):
  make, view, stride = NETWORKS[network]
  model = make(head)
  keys = jax.random.split(jax.random.key(0), 3)
  variables = jax.jit(model.init)(keys[0], jnp.zeros((1, view, view, 3)))
  image = jax.random.normal(keys[1], (2, view + 2 * stride, view + stride, 3))
  return model, variables, image, view, stride


CASES = [(network, "avg") for network in NETWORKS] + [
  ("imagenet", "max"),
  ("imagenet", "flatten"),
  ("vgg", "flatten"),
]


# Of all networks and heads, the same is computed by hand below.
@pytest.mark.parametrize(("network", "head"), [("imagenet", "avg"), ("vgg", "flatten")])
def test_on_an_image_of_the_view_s_size_they_are_the_network_s_logits(network, head):
  model, variables, images, view, _ = made(network, head)
  images = images[:, :view, :view]
  logits = jax.jit(lambda v, x: models.logits_of_windows(model, v, x, view))(variables, images)
  assert logits.shape == (2, 1, 1, CLASSES)
  np.testing.assert_allclose(
    logits[:, 0, 0], jax.jit(model.apply)(variables, images), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(("network", "head"), CASES)
def test_on_a_larger_image_they_are_those_of_all_windows_of_its_map(network, head):
  model, variables, images, view, stride = made(network, head)

  @jax.jit
  def computed(variables, images):
    last = model.clone(head="none").apply(variables, images)
    return models.logits_of_windows(model, variables, images, view), last

  found, last = computed(variables, images)
  assert found.shape == (2, 3, 2, CLASSES)
  last = np.asarray(last, np.float64)
  size = view // stride
  for row in range(3):
    for column in range(2):
      window = last[:, row : row + size, column : column + size]
      reduce = {"avg": lambda w: w.mean((1, 2)), "max": lambda w: w.max((1, 2))}
      x = reduce.get(head, lambda w: w.reshape(2, -1))(window)
      params = variables["params"]
      if "hidden1" in params:
        x = np.maximum(x @ params["hidden1"]["kernel"] + params["hidden1"]["bias"], 0)
      x = x @ params["head"]["kernel"] + params["head"]["bias"]
      np.testing.assert_allclose(found[:, row, column], x, rtol=1e-4, atol=1e-5)


def test_without_effects_of_the_border_they_are_the_logits_of_shifted_views():
  # A view whose border is as empty as what surrounds it is seen as it would be alone.
  model = models.ResNet((1, 1), width=4, num_classes=CLASSES, stem="cifar")
  view, key = 16, jax.random.key(0)
  variables = jax.jit(model.init)(key, jnp.zeros((1, view, view, 3)))
  spot = jnp.zeros((1, view, view, 3)).at[:, 6:10, 6:10].set(jax.random.normal(key, (1, 4, 4, 3)))
  image = jnp.zeros((1, view + 8, view + 8, 3)).at[:, 4 : 4 + view, 4 : 4 + view].set(spot)

  @jax.jit
  def computed(variables, image, spot):
    windows = models.logits_of_windows(model, variables, image, view)
    return windows, model.apply(variables, spot)

  found, alone = computed(variables, image, spot)
  assert found.shape == (1, 5, 5, CLASSES)
  np.testing.assert_allclose(found[:, 2, 2], alone, rtol=1e-4, atol=1e-4)


def test_a_view_of_224_pixels_is_7x7_of_the_last_map():
  model = models.create("resnet18")
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  for height, width, places in ((224, 224, (1, 1)), (256, 320, (2, 4)), (640, 853, (14, 21))):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    logits = jax.eval_shape(
      lambda v, x: models.logits_of_windows(model, v, x, 224), variables, images
    )
    assert logits.shape == (1, *places, 1000)


def test_what_has_no_logits_is_refused():
  model, variables, images, view, _ = made("imagenet", "avg")
  with pytest.raises(ValueError, match="smaller than a view of 64"):
    models.logits_of_windows(model, variables, images, 64)
  for bare in (model.clone(head="none"), model.clone(num_classes=0)):
    with pytest.raises(ValueError, match="without a classifier"):
      models.logits_of_windows(bare, variables, images, view)


class TransformedTest(chex.TestCase):
  """The function under every transformation."""

  @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
  def test_windows_are_the_same_wherever_they_are_computed(self):
    model, variables, images, view, _ = made("preactivation", "avg")
    expected = models.logits_of_windows(model, variables, images, view)
    found = self.variant(lambda v, x: models.logits_of_windows(model, v, x, view))(
      variables, images
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
