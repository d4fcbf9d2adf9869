"""Weights of torchvision, timm and transformers: the same logits, and out again bit for bit."""

import importlib
import importlib.util
import json
from functools import partial

import jax
import numpy as np
import pytest

if not all(map(importlib.util.find_spec, ("torch", "torchvision", "timm"))):
  pytest.skip("no PyTorch: pip install -e '.[torch]'", allow_module_level=True)

import safetensors.torch
import torch
from torch_reference import (
  features_and_logits,
  randomise,
  timm_resnet,
  torchvision_resnet,
)

from resnet_jax.errors import UserError
from resnet_jax.weights import convert, save_torchvision, save_weights, to_torchvision
from resnet_jax.weights.torchvision import PUBLISHED

torch.set_num_threads(1)

LONG = pytest.mark.long
SIZE = (33, 49)
CONFIG = {
  "architecture": "resnet18d",
  "pretrained_cfg": {
    "input_size": [3, 224, 224],
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.5, 0.5],
  },
}


def with_weights(reference):
  """A network of PyTorch with random weights; images."""
  images = np.random.default_rng(0).normal(size=(4, *SIZE, 3)).astype(np.float32)
  randomise(reference, images)
  return reference, images


def assert_same_logits(reference, images, variables, info):
  theirs = features_and_logits(reference, images)["logits"]
  ours = jax.jit(info.create().apply)(variables, images)
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def folder(path, net, config):
  path.mkdir()
  safetensors.torch.save_file(net.state_dict(), path / "model.safetensors")
  (path / "config.json").write_text(json.dumps(config))
  return path


@pytest.mark.parametrize(
  ("theirs", "name", "found"),
  [
    ("resnet18", "resnet18", {}),
    ("resnet50", "resnet50", {"stride_in": "3x3"}),
    ("resnext50_32x4d", "resnet50", {"groups": 32, "width_per_group": 4}),
    pytest.param("wide_resnet50_2", "resnet50", {"width_per_group": 128}, marks=LONG),
  ],
)
def test_torchvision_s_networks_give_the_same_logits_and_go_out_bit_equal(
  theirs, name, found, tmp_path
):
  # resnet18 as it is, the others narrow and shallow.
  fields = {} if theirs == "resnet18" else {"width": 16, "stage_sizes": (1, 1, 1, 2)}
  reference, images = with_weights(torchvision_resnet(theirs, **fields))
  state = reference.net.state_dict()
  torch.save(state, tmp_path / "net.pth")
  variables, info = convert("torchvision", tmp_path / "net.pth", name, fields)
  assert_same_logits(reference, images, variables, info)
  found = {"pool_padding": (1, 1), "num_classes": 10, "bn_epsilon": 1e-5} | found
  assert info.model.overrides.items() >= found.items()
  assert info.preprocessing.resize == 256
  save_torchvision(tmp_path / "out.safetensors", info.create(), variables)
  out = safetensors.torch.load_file(tmp_path / "out.safetensors")
  assert out.keys() == state.keys()
  for key, tensor in state.items():
    if not key.endswith("num_batches_tracked"):
      assert torch.equal(out[key], tensor)
  again = torchvision_resnet(theirs, **fields)
  again.net.to_empty(device="cpu").load_state_dict(out)
  logits = features_and_logits(again, images)["logits"]
  np.testing.assert_array_equal(logits, features_and_logits(reference, images)["logits"])


def assert_round_trip_is_bit_equal(name, folder, **width):
  net = torchvision_resnet(name, **width).net.to_empty(device="cpu")
  generator = torch.Generator().manual_seed(0)
  for tensor in net.state_dict().values():
    if tensor.is_floating_point():
      tensor.normal_(generator=generator)
    else:
      tensor.zero_()
  safetensors.torch.save_file(net.state_dict(), folder / "net.safetensors")
  variables, info = convert("torchvision", folder / "net.safetensors", name, width)
  out = to_torchvision(info.create(), variables)
  assert out.keys() == net.state_dict().keys()
  for key, tensor in net.state_dict().items():
    np.testing.assert_array_equal(out[key], tensor.numpy(), strict=True)


@pytest.mark.parametrize("depth", [34, pytest.param(152, marks=LONG)])
def test_every_depth_goes_in_and_out_bit_equal(depth, tmp_path):
  assert_round_trip_is_bit_equal(f"resnet{depth}", tmp_path, width=8)


@LONG
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_as_wide_as_it_is_goes_in_and_out_bit_equal(depth, tmp_path):
  assert_round_trip_is_bit_equal(f"resnet{depth}", tmp_path)


@pytest.mark.parametrize(
  ("theirs", "name", "squeezes", "width", "found"),
  [
    ("resnet18d", "resnet18", False, 16, {"stem": "deep", "projection": "pool_conv"}),
    ("resnet50d", "resnet50", True, 32, {"squeeze_excitation": 16, "stem": "deep"}),
    pytest.param("resnet18", "resnet18", True, 64, {"squeeze_excitation": 16}, marks=LONG),
  ],
)
def test_timm_s_networks_give_the_same_logits(theirs, name, squeezes, width, found, tmp_path):
  fields = {"width": width, "stage_sizes": (1, 1, 1, 2)}
  reference = timm_resnet(theirs, squeeze_excitation=squeezes, **fields)
  reference, images = with_weights(reference)
  path = folder(tmp_path / "net", reference.net, CONFIG)
  variables, info = convert("timm", path, name, fields)
  assert_same_logits(reference, images, variables, info)
  assert info.model.overrides.items() >= found.items()
  preprocessing = info.preprocessing
  assert (preprocessing.size, preprocessing.resize) == (224, 235)
  assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.25, 0.5, 0.5))
  assert (preprocessing.interpolation, preprocessing.scale) == ("bicubic", 255)


def test_networks_of_timm_that_blur_are_refused(tmp_path):
  net = timm_resnet("resnet18").net.to_empty(device="cpu")
  path = folder(tmp_path / "net", net, CONFIG | {"architecture": "resnetaa50d"})
  with pytest.raises(UserError, match="is a resnetaa50d: there is no such network here"):
    convert("timm", path, "resnet18")


def test_another_depth_is_refused_and_the_first_tensors_are_named(tmp_path):
  net = torchvision_resnet("resnet34", width=8).net.to_empty(device="cpu")
  torch.save(net.state_dict(), tmp_path / "resnet34.pth")
  load = partial(convert, "torchvision", tmp_path / "resnet34.pth")
  with pytest.raises(UserError, match=r"resnet34\.pth is not of resnet18: .* left over: layer1\.2"):
    load("resnet18", {"width": 8})
  with pytest.raises(UserError, match=r"is not of resnet50: .* missing: layer1\.0\.conv3\.weight"):
    load("resnet50", {"width": 8})
  with pytest.raises(UserError, match=r"fc\.bias is \(10,\), params/head/bias here \(1000,\)"):
    load("resnet34", {"width": 8, "num_classes": 1000})
  with pytest.raises(UserError, match="vgg16 is no residual network"):
    load("vgg16")
  with pytest.raises(UserError, match="no network is called 'resnet35'"):
    load("resnet35")
  variables, info = load("resnet34", {"width": 8}, class_names=["a", "b"])
  with pytest.raises(UserError, match="2 class names and an offset of 0 for 10 outputs"):
    save_weights(tmp_path / "out", variables, info)


@pytest.mark.parametrize(
  ("depth", "bottleneck"), [(18, False), (50, True), pytest.param(50, False, marks=LONG)]
)
def test_transformers_networks_give_the_same_logits(depth, bottleneck, tmp_path):
  ResNetConfig, Network = transformers_resnet()
  expansion = 4 if depth == 50 else 1
  config = ResNetConfig(
    num_labels=10,
    embedding_size=16,
    hidden_sizes=[16 * 2**i * expansion for i in range(4)],
    depths=[2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3],
    layer_type="basic" if depth == 18 else "bottleneck",
    downsample_in_bottleneck=bottleneck,
    id2label={i: f"kind {i}" for i in range(10)},
  )
  net = Network(config).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, tensor in net.state_dict().items():
      if name.endswith("running_var"):
        tensor.uniform_(0.5, 2, generator=generator)
      elif tensor.ndim == 1:
        tensor.normal_(generator=generator)
  net.save_pretrained(tmp_path / "net")
  processor = {
    "crop_pct": 0.875,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 224},
  }
  (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(processor))
  variables, info = convert("transformers", tmp_path / "net", f"resnet{depth}", {"width": 16})
  images = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
  with torch.no_grad():
    theirs = net(torch.from_numpy(images).permute(0, 3, 1, 2)).logits.numpy()
  ours = jax.jit(info.create().apply)(variables, images)
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
  assert info.class_names == tuple(f"kind {i}" for i in range(10))
  found = info.preprocessing
  assert (found.size, found.resize, found.interpolation) == (224, 256, "bicubic")


def transformers_resnet():
  """The two classes of transformers; its ResNet needs no torchvision, which may not be whole."""
  if importlib.util.find_spec("transformers") is None:
    pytest.skip("no transformers: pip install transformers")
  from transformers.utils import import_utils

  import_utils.is_torchvision_available = lambda: False
  try:
    from transformers import ResNetConfig, ResNetForImageClassification
  except ImportError as error:
    pytest.skip(f"transformers cannot be used here: {error}")
  return ResNetConfig, ResNetForImageClassification


def test_what_is_known_of_published_files_is_torchvision_s():
  module = importlib.import_module("torchvision.models.resnet")
  theirs = {
    weights.url.rpartition("-")[2].removesuffix(".pth"): (
      weights.transforms.keywords.get("resize_size", 256),
      weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
    )
    for name in dir(module)
    if name.endswith("_Weights")
    for weights in getattr(module, name)
  }
  assert theirs == PUBLISHED
