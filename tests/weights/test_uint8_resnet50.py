"""A trained ResNet-50, rounded to 8 bits, in a layout that no converter knows."""

import importlib.util
import re

import jax
import numpy as np
import pytest

from resnet_jax.models import create
from resnet_jax.weights import from_arrays, read_arrays

if not all(map(importlib.util.find_spec, ("torch", "torchvision", "timm"))):
  pytest.skip("no PyTorch: pip install -e '.[torch]'", allow_module_level=True)

import torch
from torch_reference import features_and_logits, torchvision_resnet

SIZES = (3, 4, 6, 3)


@pytest.fixture(scope="module")
def arrays(test_data):
  """Those of the file, its kernels as floats again."""
  stored = read_arrays(test_data / "weights" / "resnet50_imagenet_uint8.npz")
  arrays = {}
  for name, array in stored.items():
    prefix, _, kind = name.rpartition("_")
    if kind == "q":
      scale, zero = stored[f"{prefix}_scale"], stored[f"{prefix}_zero"]
      arrays[f"{prefix}_w"] = (array.astype(np.float32) + zero) * scale
    elif kind not in ("scale", "zero") or prefix.endswith("bn"):
      arrays[name] = array
  return arrays


def name_there(name):
  """From the name of a variable; convolutions are numbered in order, projections first."""
  _, *path, leaf = name.split("/")
  if path == ["head"]:
    return {"kernel": "fc_w", "bias": "fc_bias"}[leaf]
  number = 0
  if path[0] != "stem":
    stage, block = (int(re.sub(r"\D", "", part)) for part in path[:2])
    number = 1 + sum(3 * size + 1 for size in SIZES[: stage - 1]) + 3 * (block - 1)
    if path[2] != "shortcut":
      number += int(path[2][-1])
    elif block > 1:
      raise KeyError(name)
  kinds = {"scale": "bn_scale", "bias": "bn_offset", "mean": "bn_mean", "var": "bn_variance"}
  return f"conv{number:02}_{kinds.get(leaf, 'w')}"


def reference(arrays):
  """torchvision's network with the arrays, in the order in which the file has them."""
  net = torchvision_resnet("resnet50", pool_padding=(0, 1)).net
  net.fc = torch.nn.Linear(2048, 1001, device="meta")
  net.to_empty(device="cpu")
  pairs = [(net.conv1, net.bn1)]
  for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
    for block in stage:
      pairs += [tuple(block.downsample)] if block.downsample is not None else []
      pairs += [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2, 3)]
  with torch.no_grad():
    for i, (conv, norm) in enumerate(pairs):
      conv.weight.copy_(torch.from_numpy(arrays[f"conv{i:02}_w"].transpose(3, 2, 0, 1).copy()))
      targets = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
      for target, kind in zip(targets, ("scale", "offset", "mean", "variance"), strict=True):
        target.copy_(torch.from_numpy(arrays[f"conv{i:02}_bn_{kind}"]))
    net.fc.weight.copy_(torch.from_numpy(arrays["fc_w"].T.copy()))
    net.fc.bias.copy_(torch.from_numpy(arrays["fc_bias"]))
  return torchvision_reference(net)


def torchvision_reference(net):
  made = torchvision_resnet("resnet50")
  return type(made)(net, made.module_name, {})


def test_its_logits_are_those_of_pytorch_and_its_classes_right(test_data, arrays):
  image_module = pytest.importorskip("PIL.Image")
  model = create("resnet50", stride_in="3x3", num_classes=1001)
  variables = from_arrays(model, arrays, name_there)
  folder = test_data / "imagenet_samples"
  synsets = (folder / "synsets.txt").read_text().split()
  images, labels = [], []
  for path in sorted(folder.glob("*.JPEG"))[::50]:
    with image_module.open(path) as image:
      scale = 256 / min(image.size)
      size = [round(side * scale) for side in image.size]
      resized = image.convert("RGB").resize(size, image_module.Resampling.BILINEAR)
    left, top = ((side - 224) // 2 for side in size)
    images.append(np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32))
    labels.append(1 + synsets.index(path.name.split("_")[0]))
  images = np.stack(images) - np.float32([123.68, 116.78, 103.94])
  ours = np.asarray(jax.jit(model.apply)(variables, images))
  assert (ours.argmax(-1) == labels).sum() >= 7
  theirs = features_and_logits(reference(arrays), images)["logits"]
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
