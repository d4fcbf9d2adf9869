"""Weights of Keras applications: the same logits, biases folded, stride and epsilon as theirs."""

import importlib.util
import os

import jax
import numpy as np
import pytest

if not all(map(importlib.util.find_spec, ("keras", "h5py", "tensorflow"))):
  pytest.skip("no Keras: pip install keras h5py tensorflow", allow_module_level=True)

from resnet_jax.errors import UserError
from resnet_jax.weights import convert
from resnet_jax.weights.keras import fold_biases


def test_a_bias_before_a_batch_norm_is_in_its_mean():
  arrays = {
    "a_conv/bias": np.float32([1, 2]),
    "a_bn/moving_mean": np.float32([5, 5]),
    "predictions/bias": np.float32([7]),
  }
  folded = fold_biases(arrays)
  assert folded.keys() == {"a_bn/moving_mean", "predictions/bias"}
  assert folded["a_bn/moving_mean"].tolist() == [4, 3]


@pytest.mark.long
def test_keras_s_resnet50_gives_the_same_logits(tmp_path):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  import h5py
  import keras
  from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

  shape = (65, 49, 3)
  net = keras.applications.ResNet50(
    weights=None, classes=10, classifier_activation=None, input_shape=shape
  )
  rng = np.random.default_rng(0)
  for weight in net.weights:
    if weight.path.endswith(("bias", "beta", "moving_mean")):
      weight.assign(rng.normal(0, 0.3, weight.shape))
    elif weight.path.endswith(("gamma", "moving_variance")):
      weight.assign(rng.uniform(0.5, 1.5, weight.shape))
  with h5py.File(tmp_path / "net.h5", "w") as file:
    save_weights_to_hdf5_group(file, net)
  variables, info = convert("keras", tmp_path / "net.h5", "resnet50")
  images = rng.normal(size=(2, *shape)).astype(np.float32)
  theirs = np.asarray(net(images, training=False))
  ours = jax.jit(info.create().apply)(variables, images)
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
  assert info.model.overrides["bn_epsilon"] == 1.001e-5
  assert info.model.overrides["stride_in"] == "1x1"
  assert info.preprocessing.channels == "BGR"
  with pytest.raises(UserError, match=r"net\.h5 is not of resnet101: .* missing: conv4_block"):
    convert("keras", tmp_path / "net.h5", "resnet101")


def test_a_file_of_another_layout_is_named(tmp_path):
  np.savez(tmp_path / "net.npz", a=np.zeros(1))
  with pytest.raises(UserError, match=r"net\.npz is not one of Keras applications' ResNet v1"):
    convert("keras", tmp_path / "net.npz", "resnet50")
