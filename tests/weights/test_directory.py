"""Directories of weights: what is written is read, bit for bit, or refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import TINY, assert_equal, tiny

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.weights import Preprocessing, WeightsInfo, load_weights, save_weights

INFO = WeightsInfo(
  ModelConfig("resnet18", TINY),
  "torchvision",
  "resnet18.pth",
  "00ff",
  Preprocessing((0.5, 0.5, 0.5), size=64, resize=72, interpolation="bicubic"),
  tuple("abcd"),
  class_offset=1,
  top1=0.25,
)


@pytest.fixture
def stored(tmp_path):
  model, variables = tiny()
  save_weights(tmp_path / "weights", variables, INFO)
  return tmp_path / "weights", model, variables


def test_network_variables_and_what_is_known_come_back(stored):
  directory, model, variables = stored
  found, values, info = load_weights(directory)
  assert found == model
  assert_equal(values, variables)
  assert dataclasses.replace(info, sha256="", model=INFO.model) == INFO
  assert len(info.sha256) == 64
  assert sorted(path.name for path in directory.iterdir()) == [
    "weights.json",
    "weights.safetensors",
  ]
  assert [path.name for path in directory.parent.iterdir()] == ["weights"]


def test_other_fields_of_the_network_change_its_variables_as_they_do(stored):
  directory, _, variables = stored
  model, values, _ = load_weights(directory, param_dtype="bfloat16")
  assert model.param_dtype == "bfloat16"
  kernels = (values["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])
  assert_equal(kernels[0], kernels[1].astype("bfloat16"))
  info = dataclasses.replace(
    INFO, model=ModelConfig("resnet18", TINY | {"param_dtype": "bfloat16"})
  )
  save_weights(directory.parent / "narrow", values, info)
  assert_equal(load_weights(directory.parent / "narrow")[1], values)


@pytest.mark.parametrize("position", [100, -1])
def test_a_flipped_bit_is_refused(stored, position):
  path = stored[0] / "weights.safetensors"
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"weights.safetensors is damaged"):
    load_weights(stored[0])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"format": 2}, "is of format 2"),
    ({"top1": "good"}, "is not as it was written"),
    ({"model": {"name": "resnet18", "overrides": TINY | {"width": 8}}}, "of another shape"),
    ({"model": {"name": "resnet19", "overrides": {}}}, "no network is called 'resnet19'"),
    ({"class_names": ["a"]}, "1 class names and an offset of 1 for 5 outputs"),
  ],
)
def test_what_does_not_fit_is_refused(stored, change, message):
  path = stored[0] / "weights.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(UserError, match=message):
    load_weights(stored[0])


def test_other_directories_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"is no directory of weights: it has no weights\.json"):
    load_weights(tmp_path)
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is there already"):
    save_weights(tmp_path, tiny()[1], INFO)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def full(path, content):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("resnet_jax.run.files.write_whole", full)
  with pytest.raises(OSError, match="No space"):
    save_weights(tmp_path / "weights", tiny()[1], INFO)
  assert not any(tmp_path.iterdir())


def test_a_network_with_weights_and_its_preprocessing_are_one_line(stored):
  directory, model, variables = stored
  found, values, preprocess = resnet_jax.create("resnet18", weights=directory)
  assert (found, preprocess) == (model, INFO.preprocessing)
  assert_equal(values, variables)
  pixels = np.full((1, 2, 2, 3), 3, np.uint8)
  np.testing.assert_array_equal(preprocess(pixels), np.full(pixels.shape, 2.5, np.float32))
  with pytest.raises(UserError, match="holds weights of resnet18, not of resnet34"):
    resnet_jax.create("resnet34", weights=directory)
  with pytest.raises(UserError, match=r"params/head/kernel is \(32, 5\), not \(32, 7\)"):
    resnet_jax.create("resnet18", weights=directory, num_classes=7)


@pytest.mark.parametrize(
  ("name", "fields", "shape"),
  [
    ("resnet20", {"stage_sizes": (1,), "width": 4}, (16, 16, 1)),
    ("vgg16", {"stage_sizes": (1, 1), "width": 4, "hidden_features": (8,)}, (16, 16, 3)),
  ],
)
def test_networks_of_other_images_than_imagenet_s_are_stored(name, fields, shape, tmp_path):
  expected = Preprocessing((0.5,) * shape[2], size=shape[0])
  info = WeightsInfo(ModelConfig(name, fields), "made", preprocessing=expected)
  variables = jax.jit(info.create().init)(jax.random.key(0), np.zeros((1, *shape), np.float32))
  save_weights(tmp_path / "net", variables, info)
  _, found, _ = load_weights(tmp_path / "net")
  assert_equal(found, jax.tree.map(np.asarray, dict(variables)))


@pytest.mark.parametrize(
  "preprocessing",
  [
    Preprocessing((float("nan"), 0.0, 0.0)),
    Preprocessing((0.0, 0.0, 0.0), mean_image=np.zeros((64, 64, 3), np.float32)),
  ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(preprocessing, tmp_path):
  _, variables = tiny()
  info = dataclasses.replace(INFO, preprocessing=preprocessing)
  with pytest.raises(UserError, match="cannot be written as JSON"):
    save_weights(tmp_path / "net", variables, info)
  assert not (tmp_path / "net").exists()


def test_preprocessing_scales_reorders_and_normalises():
  caffe = Preprocessing((1.0, 2.0, 3.0), channels="BGR")
  np.testing.assert_array_equal(caffe(np.uint8([[10, 20, 30]])), np.float32([[29, 18, 7]]))
  torch = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.5, 1.0), 255.0)
  pixels = jax.numpy.array([[0, 255, 51]])
  np.testing.assert_allclose(jax.jit(torch)(pixels), [[-2, 1, -0.3]], rtol=1e-6)
