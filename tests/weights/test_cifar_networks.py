"""The CIFAR networks of akamaster: zeros at both sides there, behind here; the same function."""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest

if not all(map(importlib.util.find_spec, ("torch", "torchvision", "timm"))):
  pytest.skip("no PyTorch: pip install -e '.[torch]'", allow_module_level=True)

import torch
import torch.nn.functional as F
from torch_reference import cifar_resnet, features_and_logits, randomise

from resnet_jax.errors import UserError
from resnet_jax.weights import convert

torch.set_num_threads(1)

FILES = {
  20: "resnet20-12fca82f.th",
  32: "resnet32-d509ac18.th",
  44: "resnet44-014dd654.th",
  56: "resnet56-4bfd9763.th",
}


class ZerosAtBothSides(torch.nn.Module):
  """Option A of that repository: `LambdaLayer` of its resnet.py."""

  def __init__(self, planes):
    super().__init__()
    self.planes = planes

  def forward(self, x):
    sides = (self.planes // 4, self.planes // 4)
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *sides), "constant", 0)


def network(blocks, width=16):
  reference = cifar_resnet(stage_sizes=(blocks,) * 3, width=width)
  for stage, factor in ((reference.net.layer2, 2), (reference.net.layer3, 4)):
    stage[0].downsample = ZerosAtBothSides(factor * width)
  return reference


def state_dict_there(net):
  return {f"module.{name.replace('fc.', 'linear.')}": t for name, t in net.state_dict().items()}


def test_random_weights_give_the_same_logits(tmp_path):
  images = np.random.default_rng(0).normal(size=(4, 17, 20, 3)).astype(np.float32)
  reference = network(2, width=8)
  randomise(reference, images)
  state = {"state_dict": state_dict_there(reference.net), "best_prec1": 50.0}
  torch.save(state, tmp_path / "net.th")
  fields = {"width": 8, "stage_sizes": (2, 2, 2)}
  variables, info = convert("akamaster", tmp_path / "net.th", "resnet20", fields)
  theirs = features_and_logits(reference, images)["logits"]
  ours = jax.jit(info.create().apply)(variables, images)
  assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
  assert info.top1 is None  # the best of any epoch is not that of these weights
  with pytest.raises(UserError, match=r"left over: layer1\.1\.conv1\.weight"):
    convert("akamaster", tmp_path / "net.th", "resnet20", fields | {"stage_sizes": (1, 1, 1)})


def trained(test_data, depth):
  """Network there, its variables here, and what is known of them."""
  path = test_data / "weights" / FILES[depth]
  reference = network((depth - 2) // 6)
  state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
  state = {n.removeprefix("module.").replace("linear.", "fc."): t for n, t in state.items()}
  reference.net.to_empty(device="cpu").load_state_dict(state)
  return reference, *convert("akamaster", path, f"resnet{depth}")


@pytest.fixture(scope="module")
def cifar10(test_data):
  """The test images and labels."""
  folder = str(test_data / "cifar10")
  sys.path.append(folder)
  from cifar10_packed import decode

  sys.path.remove(folder)
  return decode(pathlib.Path(folder) / "test.bin")


@pytest.mark.parametrize(
  "depth", [20, *(pytest.param(depth, marks=pytest.mark.long) for depth in (32, 44, 56))]
)
def test_trained_weights_give_the_same_logits(depth, test_data):
  reference, variables, info = trained(test_data, depth)
  pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
  images = info.preprocessing(pixels)
  theirs = features_and_logits(reference, images)["logits"]
  ours = jax.jit(info.create().apply)(variables, images)
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
  assert info.class_names[3] == "cat"


@pytest.mark.long
@pytest.mark.parametrize("depth", FILES)
def test_errors_on_cifar10_are_pytorch_s_image_for_image(depth, test_data, cifar10):
  pixels, labels = cifar10
  reference, variables, info = trained(test_data, depth)
  apply = jax.jit(info.create().apply)
  ours, theirs = [], []
  for i in range(0, len(pixels), 1000):
    images = info.preprocessing(pixels[i : i + 1000])
    theirs.append(features_and_logits(reference, images)["logits"].argmax(-1))
    ours.append(np.asarray(apply(variables, images)).argmax(-1))
  ours, theirs = np.concatenate(ours), np.concatenate(theirs)
  np.testing.assert_array_equal(ours, theirs)
  if depth == 20:
    assert (ours != labels).sum() == 827
