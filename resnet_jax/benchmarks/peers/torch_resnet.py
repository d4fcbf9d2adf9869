"""A residual network in PyTorch, in the style of torchvision.

torchvision itself has no CIFAR networks, and does not load with a PyTorch of another build.
Parameters have torchvision's names.
"""

import importlib
from typing import Any

from resnet_jax.benchmarks.peers.task import PeerTask

# PyTorch is an extra, so types are not checked against it.
torch: Any = importlib.import_module("torch")
nn: Any = torch.nn


def _conv(channels: int, features: int, size: int, stride: int = 1) -> Any:
  return nn.Conv2d(channels, features, size, stride, padding=size // 2, bias=False)


class TorchBlock(nn.Module):
  """A residual block: two 3x3 convolutions or a bottleneck, and a shortcut.

  Args:
    channels: Channels of the input.
    features: Channels of the 3x3 convolutions.
    stride: Stride of the block.
    task: The structure of the network.
  """

  def __init__(self, channels: int, features: int, stride: int, task: PeerTask):
    super().__init__()
    self.stride = stride
    self.relu = nn.ReLU(inplace=True)
    if task.bottleneck:
      out = 4 * features
      self.conv1, self.bn1 = _conv(channels, features, 1), nn.BatchNorm2d(features)
      self.conv2, self.bn2 = _conv(features, features, 3, stride), nn.BatchNorm2d(features)
      self.conv3, self.bn3 = _conv(features, out, 1), nn.BatchNorm2d(out)
    else:
      out = features
      self.conv1, self.bn1 = _conv(channels, out, 3, stride), nn.BatchNorm2d(out)
      self.conv2, self.bn2 = _conv(out, out, 3), nn.BatchNorm2d(out)
      self.conv3 = None
    self.missing, self.downsample = 0, None
    if stride > 1 or channels != out:
      if task.shortcut == "A":
        self.missing = out - channels
      else:
        self.downsample = nn.Sequential(_conv(channels, out, 1, stride), nn.BatchNorm2d(out))

  def forward(self, x: Any) -> Any:
    """Maps (N, C, H, W) to (N, features or four times as many, H / stride, W / stride)."""
    y = self.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    if self.conv3 is not None:
      y = self.bn3(self.conv3(self.relu(y)))
    if self.downsample is not None:
      x = self.downsample(x)
    elif self.missing:
      x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
    return self.relu(y + x)


class TorchResNet(nn.Module):
  """A residual network: stem, stages, mean over positions, classifier.

  Args:
    task: Its structure.
  """

  def __init__(self, task: PeerTask):
    super().__init__()
    channels = task.width
    self.conv1 = _conv(3, channels, 3) if task.cifar else _conv(3, channels, 7, 2)
    self.bn1, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    self.maxpool = nn.Identity() if task.cifar else nn.MaxPool2d(3, 2, padding=1)
    stages = []
    for i, size in enumerate(task.stage_sizes):
      blocks = []
      for j in range(size):
        features, stride = task.width * 2**i, 2 if i and not j else 1
        blocks.append(TorchBlock(channels, features, stride, task))
        channels = 4 * features if task.bottleneck else features
      stages.append(nn.Sequential(*blocks))
      self.add_module(f"layer{i + 1}", stages[-1])
    self.stages = stages
    self.fc = nn.Linear(channels, task.num_classes)

  def forward(self, x: Any) -> Any:
    """Maps images (N, 3, H, W) to logits (N, num_classes)."""
    x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
    for stage in self.stages:
      x = stage(x)
    return self.fc(x.mean((2, 3)))
