"""PyTorch's side: torchvision's ImageNet reference, a DataLoader with worker processes and Pillow.

Torchvision's transforms for Pillow images are written out here, because torchvision's compiled part
has to match the build of PyTorch.
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
  """Opens a loader of normalised float32 batches, NCHW.

  Persistent workers and `prefetch_factor` 2 are the usual settings for speed. Memory is not pinned,
  which would only speed up the copy to a GPU. The sampler is endless, because workers would run out
  of work between epochs.
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
  """A sampler that shuffles anew for each of endless epochs."""

  def __init__(self, size: int):
    self._order = list(range(size))

  def __iter__(self) -> Iterator[int]:
    while True:
      random.shuffle(self._order)
      yield from self._order


class _Images:
  """Images from files, read as torchvision's `ImageFolder` does.

  Args:
    torch: The module.
    task: The work, with the folder of files.
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
    # In place, which is an option in torchvision.
    normalised = pixels.to(self._torch.float32).div_(255).sub_(self._mean).div_(self._deviation)
    return normalised, self._labels[i]

  def _crop(self, image: PIL.Image.Image) -> PIL.Image.Image:
    left = random.randint(0, image.width - self._size)
    top = random.randint(0, image.height - self._size)
    return image.crop((left, top, left + self._size, top + self._size))


def _resize(image: PIL.Image.Image, short_side: int) -> PIL.Image.Image:
  """Resizes the whole image, before the crop, as the reference does."""
  short, long = sorted(image.size)
  other = int(short_side * long / short)
  shape = (short_side, other) if image.width <= image.height else (other, short_side)
  return image.resize(shape, PIL.Image.Resampling.BILINEAR)
