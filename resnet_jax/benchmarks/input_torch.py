"""PyTorch's side: torchvision's ImageNet reference, a DataLoader of worker processes with Pillow.

The transforms are those of torchvision for Pillow images, written out: PyTorch is needed, and
torchvision, whose compiled part must fit it, is not.
"""

import importlib
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

from resnet_jax.benchmarks.task import InputTask
from resnet_jax.benchmarks.work import Work

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batches(task: InputTask) -> Work:
  """Batches of float32, NCHW, normalised.

  Workers that live on and `prefetch_factor` 2 are what one sets for speed; no pinned memory, which
  only the copy to a GPU gains from. One endless sampler: between epochs the workers would run dry.
  """
  torch: Any = importlib.import_module("torch")
  images = _Images(torch, task)
  loader = torch.utils.data.DataLoader(
    images,
    batch_size=task.batch_size,
    sampler=_EndlessShuffle(len(images)),
    num_workers=task.threads,
    persistent_workers=True,
    prefetch_factor=2,
    drop_last=True,
  )
  return Work((len(labels) for _, labels in loader), warm_up=task.examples)


class _EndlessShuffle:
  """Every example once in an epoch, epoch after epoch."""

  def __init__(self, size: int):
    self._order = list(range(size))

  def __iter__(self) -> Iterator[int]:
    while True:
      random.shuffle(self._order)
      yield from self._order


class _Images:
  """The examples' files, as torchvision's `ImageFolder` reads them.

  Args:
    torch: The module.
    task: Names the folder.
  """

  def __init__(self, torch: Any, task: InputTask):
    self._torch = torch
    self._paths = sorted(pathlib.Path(task.jpegs).glob("*.jpg"))
    self._labels = [int(path.stem.split("_")[1]) for path in self._paths]
    self._size = task.image_size
    self._short_sides = task.short_sides
    self._mean = torch.tensor(MEAN).view(3, 1, 1)
    self._deviation = torch.tensor(DEVIATION).view(3, 1, 1)

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, i: int) -> tuple[Any, int]:
    with self._paths[i].open("rb") as file:
      image = PIL.Image.open(file).convert("RGB")
    image = self._crop(_resize(image, random.randint(*self._short_sides)))
    if random.random() < 0.5:
      image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = self._torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    # In place, which torchvision leaves to choice.
    normalised = pixels.to(self._torch.float32).div_(255).sub_(self._mean).div_(self._deviation)
    return normalised, self._labels[i]

  def _crop(self, image: PIL.Image.Image) -> PIL.Image.Image:
    left = random.randint(0, image.width - self._size)
    top = random.randint(0, image.height - self._size)
    return image.crop((left, top, left + self._size, top + self._size))


def _resize(image: PIL.Image.Image, short_side: int) -> PIL.Image.Image:
  """The whole image, before the crop: that is the order of the reference's transforms."""
  short, long = sorted(image.size)
  other = int(short_side * long / short)
  shape = (short_side, other) if image.width <= image.height else (other, short_side)
  return image.resize(shape, PIL.Image.Resampling.BILINEAR)
