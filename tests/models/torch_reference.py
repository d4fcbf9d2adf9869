"""Networks of torchvision and timm as references of this package's: what parity tests compare with.

The networks are those that torchvision's and timm's own sources build. What these cannot say is
patched into the built network, and every such patch is below: the stride of a bottleneck in its
first 1x1 convolution, a pooling padded at one side, plain networks, shortcuts of zeros or with
projections everywhere, the stem and the three stages of CIFAR networks, and fewer channels.

Importing this module needs PyTorch, torchvision and timm.
"""

import dataclasses
import functools
import importlib.machinery
import importlib.util
import math
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def _import_torchvision() -> None:
  """Makes torchvision's sources importable where its compiled operators do not load.

  They do not beside a PyTorch of another build (CPU or CUDA), and networks need none of them.
  """
  try:
    import torchvision  # noqa: F401
  except (ImportError, RuntimeError):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
      del sys.modules[name]
    spec = importlib.util.find_spec("torchvision")
    folder = pathlib.Path(spec.origin).parent
    packages = []
    for name, path in (("torchvision", folder), ("torchvision.models", folder / "models")):
      package = types.ModuleType(name)
      package.__path__ = [str(path)]
      package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
      sys.modules[name] = package
      packages.append(package)
    packages[0].models = packages[1]


_import_torchvision()

import timm.layers  # noqa: E402
import timm.models  # noqa: E402
import timm.models.resnetv2  # noqa: E402
import torchvision.models.resnet  # noqa: E402
import torchvision.models.vgg  # noqa: E402

from resnet_jax.weights.torch_names import LEAVES, module_name  # noqa: E402

CLASSES = 10
Path = tuple[str, ...]
Tree = Any


@dataclasses.dataclass(frozen=True)
class Reference:
  """A network of PyTorch, and what its parts are called here.

  Attributes:
    net: The network.
    module_name: Name in `net` of the module at a path of this package's variables.
    features: Name in `net` of the module that gives each feature map, by its name here.
    flattened: Channels, rows and columns of the feature map that the first dense layer is given
      flattened, if any: PyTorch flattens channels first.
  """

  net: nn.Module
  module_name: Callable[[Path], str]
  features: Mapping[str, str]
  flattened: tuple[int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Step:
  """What a training step gives.

  Attributes:
    loss: A number.
    gradients: Of the parameters, as a tree of this package.
    updated: The collections of variables that the step changes, likewise.
  """

  loss: np.ndarray
  gradients: Tree
  updated: Tree


# Networks.


def torchvision_resnet(
  name: str,
  *,
  width: int = 64,
  stride_in: str = "3x3",
  pool_padding: tuple[int, int] = (1, 1),
  shortcut: str | None = "B",
  stage_sizes: tuple[int, ...] | None = None,
  **settings: Any,
) -> Reference:
  """A residual network of torchvision by name; the defaults are torchvision's own.

  Args:
    name: For example resnet50 or resnext50_32x4d.
    width: Channels of the stem; all other numbers of channels are in proportion.
    stride_in: The convolution of a bottleneck that strides.
    pool_padding: Before and after, of the max-pooling.
    shortcut: B, A (zeros instead of projections), C (projections everywhere), or None for a plain
      network.
    stage_sizes: Blocks of each stage, if others than those of the name.
    **settings: Of torchvision's function.
  """
  narrow = functools.partial(_NarrowResNet, width, stage_sizes=stage_sizes)
  with torch.device("meta"), mock.patch.object(torchvision.models.resnet, "ResNet", narrow):
    net = getattr(torchvision.models.resnet, name)(num_classes=CLASSES, **settings)
    net.maxpool = _MaxPool(pool_padding)
    _move_strides(net, stride_in)
    if stride_in == "1x1":
      # Where a stage dilates instead, its first 3x3 convolution comes after what would stride, and
      # so dilates as the others do, as in DeepLab's ResNet-101 (res4a_branch2b).
      for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for attribute in ("dilation", "padding"):
          setattr(stage[0].conv2, attribute, getattr(stage[-1].conv2, attribute))
    _replace_shortcuts(net, shortcut)
  return Reference(net, module_name, _resnet_features(4))


def cifar_resnet(
  *,
  shortcut: str | None = "A",
  width: int = 16,
  stage_sizes: tuple[int, ...] = (3, 3, 3),
) -> Reference:
  """torchvision's basic blocks in the three stages of section 4.2, after one 3x3 convolution."""
  basic = torchvision.models.resnet.BasicBlock
  with torch.device("meta"):
    net = _NarrowResNet(width, basic, [*stage_sizes, 1], num_classes=CLASSES)
    net.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    net.maxpool, net.layer4 = nn.Identity(), nn.Identity()
    net.fc = nn.Linear(4 * width, CLASSES)
    _replace_shortcuts(net, shortcut)
  return Reference(net, module_name, _resnet_features(3))


def timm_resnet(
  name: str,
  *,
  width: int = 64,
  stride_in: str = "3x3",
  pool_padding: tuple[int, int] = (1, 1),
  squeeze_excitation: bool = False,
  stage_sizes: tuple[int, ...] | None = None,
  **settings: Any,
) -> Reference:
  """A residual network of timm by name, for example resnet50d; the defaults are timm's own.

  Args:
    name: Of the network.
    width: Channels of the stem; another than 64 only where the stem is deep.
    stride_in: The convolution of a bottleneck that strides.
    pool_padding: Before and after, of the max-pooling.
    squeeze_excitation: Whether blocks have timm's `SEModule`, of reduction 16. Its inner channels
      are not rounded to a multiple of 8, as timm would.
    stage_sizes: Blocks of each stage, if others than those of the name.
    **settings: Of timm's class.
  """
  if squeeze_excitation:
    attention = functools.partial(timm.layers.SEModule, rd_ratio=1 / 16, rd_divisor=1)
    settings["block_args"] = {"attn_layer": attention}
  if stage_sizes is not None:
    settings["layers"] = stage_sizes
  is_d = re.search(r"\dd(_|$)", name) is not None
  if is_d:
    settings["stem_width"] = width // 2
  with torch.device("meta"):
    net = timm.create_model(
      name, num_classes=CLASSES, channels=[width * 2**i for i in range(4)], **settings
    )
    net.maxpool = _MaxPool(pool_padding)
    _move_strides(net, stride_in)
  names = functools.partial(module_name, deep_stem=is_d, pooled_projection=is_d)
  return Reference(net, names, _resnet_features(4))


def preactivated_resnet(
  *,
  stage_sizes: tuple[int, ...],
  basic: bool = False,
  width: int = 64,
  stride_in: str = "3x3",
  pool_padding: tuple[int, int] = (1, 1),
  shortcut: str = "B",
  stem: str = "imagenet",
) -> Reference:
  """timm's ResNetV2 with batch norm, behind a stem that ends with norm, activation and pooling.

  Args:
    stage_sizes: Blocks of each stage.
    basic: Whether blocks are basic ones, not bottlenecks.
    width: Channels of the stem.
    stride_in: The convolution of a bottleneck that strides; timm's own is 3x3.
    pool_padding: Before and after, of the max-pooling; timm's own is (1, 1).
    shortcut: B, timm's own, or A: zeros instead of projections.
    stem: imagenet, or cifar: one 3x3 convolution, whose activation is that of the first unit too.
  """
  layers = {
    "conv_layer": timm.layers.create_conv2d,
    "norm_layer": timm.layers.BatchNormAct2d,
  }
  expansion = 1 if basic else 4
  channels = [expansion * width * 2**i for i in range(len(stage_sizes))]
  with torch.device("meta"):
    net = timm.models.resnetv2.ResNetV2(
      stage_sizes,
      channels,
      CLASSES,
      stem_chs=width,
      basic=basic,
      bottle_ratio=1 / expansion,
      **layers,
    )
    net.stem = timm.models.resnetv2.create_resnetv2_stem(3, width, preact=False, **layers)
    if stem == "cifar":
      net.stem.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
      net.stem.pool = nn.Identity()
      net.stages[0].blocks[0].norm1 = nn.Identity()
    else:
      net.stem.pool = _MaxPool(pool_padding)
    _move_strides(net, stride_in)
    _replace_shortcuts(net, shortcut)
  stages = {f"stage{i + 1}": f"stages.{i}" for i in range(len(stage_sizes))}
  return Reference(net, preactivated_module_name, {"stem": "stem"} | stages)


def torchvision_vgg(
  name: str, image_size: tuple[int, int], *, width: int = 64, hidden: tuple[int, int] = (4096, 4096)
) -> Reference:
  """A VGG of torchvision by name, for images of another size than 224, without dropout.

  torchvision would pool other feature maps to 7x7; here the classifier is given them as they are.

  Args:
    name: For example vgg16 or vgg16_bn.
    image_size: Rows and columns.
    width: Channels of the first stage.
    hidden: Channels of the dense layers before the last.
  """
  scaled = {
    letter: [item if item == "M" else item * width // 64 for item in column]
    for letter, column in torchvision.models.vgg.cfgs.items()
  }
  flattened = (8 * width, image_size[0] // 32, image_size[1] // 32)
  with torch.device("meta"), mock.patch.object(torchvision.models.vgg, "cfgs", scaled):
    net = getattr(torchvision.models.vgg, name)(num_classes=CLASSES, dropout=0.0)
    net.avgpool = nn.Identity()
    channels = (math.prod(flattened), *hidden, CLASSES)
    for i, index in enumerate((0, 3, 6)):
      net.classifier[index] = nn.Linear(channels[i], channels[i + 1])
  kinds = [type(module) for module in net.features]
  pools = [i for i, kind in enumerate(kinds) if kind is nn.MaxPool2d]
  features = {f"stage{i}": f"features.{index}" for i, index in enumerate(pools, 1)}
  return Reference(net, functools.partial(vgg_module_name, tuple(kinds)), features, flattened)


class _NarrowResNet(torchvision.models.resnet.ResNet):
  """torchvision's network with `width` channels where its own has 64, and so on in proportion."""

  def __init__(
    self,
    width: int,
    block: type[nn.Module],
    layers: Sequence[int],
    *,
    stage_sizes: Sequence[int] | None = None,
    **settings: Any,
  ):
    self.width = width
    super().__init__(block, list(stage_sizes or layers), **settings)
    self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.fc = nn.Linear(8 * width * block.expansion, self.fc.out_features)

  def _make_layer(self, block: type[nn.Module], planes: int, *args: Any, **settings: Any) -> Any:
    if planes == 64:
      self.inplanes = self.width
    return super()._make_layer(block, planes * self.width // 64, *args, **settings)


class _MaxPool(nn.Module):
  """3x3 max-pooling of stride 2, padded before and after; -inf never wins."""

  def __init__(self, padding: tuple[int, int]):
    super().__init__()
    self.padding = padding

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(F.pad(x, self.padding * 2, value=-torch.inf), 3, 2)


class _ZeroPad(nn.Module):
  """Option A: every stride-th pixel, then zeros for the channels that are missing."""

  def __init__(self, stride: int, features: int):
    super().__init__()
    self.stride, self.features = stride, features

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x[:, :, :: self.stride, :: self.stride]
    return F.pad(x, (0, 0, 0, 0, 0, self.features - x.shape[1]))


class _Nothing(nn.Module):
  """In place of a shortcut: a zero that the branch is added to."""

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x[:1, :1, :1, :1])


def _blocks(net: nn.Module) -> Iterator[nn.Module]:
  return (module for module in net.modules() if hasattr(module, "downsample"))


def _move_strides(net: nn.Module, stride_in: str) -> None:
  """Has the first 1x1 convolutions stride instead of the 3x3 ones."""
  for block in _blocks(net):
    if stride_in == "1x1" and hasattr(block, "conv3"):
      block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _replace_shortcuts(net: nn.Module, shortcut: str | None) -> None:
  for block in _blocks(net):
    if shortcut is None:
      block.downsample = _Nothing()
    elif shortcut == "A" and block.downsample is not None:
      convolution = next(m for m in block.downsample.modules() if isinstance(m, nn.Conv2d))
      block.downsample = _ZeroPad(convolution.stride[0], convolution.out_channels)
    elif shortcut == "C" and block.downsample is None:
      features = block.conv1.in_channels
      block.downsample = nn.Sequential(
        torchvision.models.resnet.conv1x1(features, features), nn.BatchNorm2d(features)
      )


# Names.


def preactivated_module_name(path: Path) -> str:
  """The name in timm's ResNetV2 of the module at a path of a pre-activated ResNet here."""
  name = "/".join(path)
  if match := re.fullmatch(r"stage(\d+)/block(\d+)/(.+)", name):
    part = match[3].replace("shortcut/", "downsample/").replace("/", ".")
    return f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.{part}"
  names = {"stem/conv": "stem.conv", "stem/norm": "stem.norm", "norm": "norm", "head": "head.fc"}
  return names[name]


def vgg_module_name(kinds: tuple[type[nn.Module], ...], path: Path) -> str:
  """The name in torchvision of the module at a path of a VGG here.

  Args:
    kinds: Of the items of torchvision's `features`.
    path: For example ("stage1", "conv2").
  """
  if len(path) == 1:
    return {"hidden1": "classifier.0", "hidden2": "classifier.3", "head": "classifier.6"}[path[0]]
  stage, (kind, number) = int(path[0][5:]), re.fullmatch(r"([a-z]+)(\d+)", path[1]).groups()
  wanted = {"conv": nn.Conv2d, "norm": nn.BatchNorm2d}[kind]
  stages = [1 + kinds[:i].count(nn.MaxPool2d) for i in range(len(kinds))]
  found = [i for i, k in enumerate(kinds) if k is wanted and stages[i] == stage]
  return f"features.{found[int(number) - 1]}"


# Values.


def randomise(reference: Reference, images: np.ndarray) -> None:
  """Gives a network random parameters, and running statistics in their order of magnitude.

  The statistics are those of the images, scaled and shifted at random: no function of the network
  hides behind a mean of 0 or a variance of 1, and activations neither vanish nor explode.
  """
  net = reference.net.to_empty(device="cpu").to(torch.from_numpy(images).dtype)
  generator = torch.Generator().manual_seed(0)
  missing = {name for name, _ in net.named_parameters()}
  for name, module in net.named_modules():
    if isinstance(module, nn.Conv2d | nn.Linear):
      nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
      if module.bias is not None:
        nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
      nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
      # Above 0 on average: else rounding errors grow by a tenth with each layer.
      nn.init.normal_(module.bias, 0.5, 0.5, generator=generator)
      module.reset_running_stats()
      module.momentum = 1.0
    else:
      continue
    missing -= {f"{name}.weight", f"{name}.bias"}
  assert not missing
  with torch.no_grad():
    net.train()(_channels_first(images))
  for norm in _norms(net).values():
    norm.momentum = 0.1
    shift = torch.empty_like(norm.running_mean).normal_(0, 0.3, generator=generator)
    norm.running_mean += shift * norm.running_var.sqrt()
    norm.running_var *= torch.empty_like(shift).uniform_(0.5, 2, generator=generator)


def as_variables(reference: Reference, like: Tree) -> Tree:
  """The network's parameters and statistics as variables of this package.

  Args:
    reference: The network.
    like: Variables, or their shapes, as `init` gives them.
  """
  buffers = {
    name: buffer
    for name, buffer in reference.net.named_buffers()
    if not name.endswith("num_batches_tracked")
  }
  trees = {"params": dict(reference.net.named_parameters()), "batch_stats": buffers}
  assert set(like) <= set(trees)
  variables = {name: _as_tree(reference, like.get(name, {}), trees[name]) for name in trees}
  return {name: tree for name, tree in variables.items() if name in like}


def features_and_logits(reference: Reference, images: np.ndarray) -> dict[str, np.ndarray]:
  """The feature maps and the logits of a batch of images in evaluation."""
  maps = {}

  def keep(name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
      maps[name] = output.permute(0, 2, 3, 1).numpy().copy()  # what follows works in place

    return hook

  net = reference.net.eval()
  hooks = [
    net.get_submodule(module).register_forward_hook(keep(name))
    for name, module in reference.features.items()
  ]
  with torch.no_grad():
    logits = net(_channels_first(images)).numpy()
  for hook in hooks:
    hook.remove()
  assert set(maps) == set(reference.features)
  return maps | {"logits": logits}


def training_step(reference: Reference, images: np.ndarray, labels: np.ndarray, like: Tree) -> Step:
  """Loss, gradients and updated running statistics of a batch.

  PyTorch keeps the unbiased variance, this package the biased one: what is given is what PyTorch
  would keep if it took the biased one.

  Args:
    reference: The network; its statistics are updated.
    images: (N, H, W, 3).
    labels: (N,).
    like: As for `as_variables`.
  """
  net = reference.net.train()
  norms = _norms(net)
  counts = {}
  before = {name: norm.running_var.clone() for name, norm in norms.items()}
  for name, norm in norms.items():
    norm.register_forward_hook(
      lambda module, inputs, output, name=name: counts.update(
        {name: inputs[0].numel() // inputs[0].shape[1]}
      )
    )
  loss = F.cross_entropy(net(_channels_first(images)), torch.from_numpy(labels))
  loss.backward()
  running = {}
  for name, norm in norms.items():
    kept, n = (1 - norm.momentum) * before[name], counts[name]
    running[f"{name}.running_mean"] = norm.running_mean
    running[f"{name}.running_var"] = kept + (norm.running_var - kept) * (n - 1) / n
  gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
  return Step(
    loss.detach().numpy(),
    _as_tree(reference, like["params"], gradients),
    {"batch_stats": _as_tree(reference, like["batch_stats"], running)} if running else {},
  )


def _norms(net: nn.Module) -> dict[str, nn.BatchNorm2d]:
  return {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}


def _resnet_features(stages: int) -> dict[str, str]:
  return {"stem": "maxpool"} | {f"stage{i}": f"layer{i}" for i in range(1, stages + 1)}


def _channels_first(images: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _as_tree(reference: Reference, like: Tree, tensors: Mapping[str, torch.Tensor]) -> Tree:
  """A tree of this package of tensors by their names in PyTorch, none of which may be left over."""
  left = dict(tensors)

  def take(keys: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    path = tuple(key.key for key in keys)
    tensor = left.pop(f"{reference.module_name(path[:-1])}.{LEAVES[path[-1]]}")
    value = tensor.detach().numpy().copy()
    if path[-1] == "kernel":
      value = _kernel(value, len(leaf.shape), reference.flattened if "hidden1" in path else None)
    assert value.shape == leaf.shape, f"{path}: {value.shape} for {leaf.shape}"
    assert value.dtype == leaf.dtype, f"{path}: {value.dtype} for {leaf.dtype}"
    return value

  tree = jax.tree_util.tree_map_with_path(take, like)
  assert not left, f"left over: {sorted(left)}"
  return tree


def _kernel(
  weight: np.ndarray, rank: int, flattened: tuple[int, int, int] | None = None
) -> np.ndarray:
  """PyTorch's (out, in, …) as this package's (…, in, out)."""
  if rank == 4:
    return weight.transpose(2, 3, 1, 0)
  if flattened is not None:
    weight = weight.reshape(-1, *flattened).transpose(0, 2, 3, 1)
  return weight.reshape(len(weight), -1).T
