"""The CIFAR networks of github.com/akamaster/pytorch_resnet_cifar10.

Their option A puts half of the new channels' zeros before the input's channels and half after them;
here all come after. So the channels of the shortcuts, and of all that is added to them or computed
from them, are put into another order, in which both are the same function.
"""

import re
from collections.abc import Mapping

import numpy as np

from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.foreign import Foreign, ForeignFile, torch_fields
from resnet_jax.weights.torch_names import tensor_name

_CLASSES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)


def read(file: ForeignFile, model: ResNet) -> Foreign:
  """The weights of a file of that repository's.

  Its trainer stores `best_prec1` in the file: the best of any epoch, not that of these weights, so
  it is not taken over. Pictures are shown as they are, normalised as ImageNet's.

  Args:
    file: What was read.
    model: The network of the catalog whose weights they shall be.
  """
  projects = any(".shortcut." in name for name in file.arrays)
  arrays = file.arrays if projects else reorder_channels(file.arrays)
  head = file.arrays.get("linear.bias", np.zeros(0))
  return Foreign(
    arrays,
    _tensor_name,
    torch_fields(model) | {"shortcut": "B" if projects else "A"},
    preprocessing=Preprocessing(IMAGENET_MEAN, IMAGENET_STD, 255.0, size=32),
    class_names=_CLASSES if head.shape == (len(_CLASSES),) else None,
  )


def reorder_channels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A state dict with option A, its channels in the order that has all zeros after the input's.

  Between the two convolutions of a block the order stays; arrays of shapes that no such network has
  are left as they are, for `from_arrays` to refuse.
  """
  orders = _orders(arrays)
  reordered = dict(arrays)
  for name, array in arrays.items():
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv1|conv2|bn2)\.\w+", name):
      stage, block, part = int(match[1]), int(match[2]), match[3]
      if part == "conv1":
        axis, order = 1, orders.get(stage if block else stage - 1)
      else:
        axis, order = 0, orders.get(stage)
    elif name == "linear.weight":
      axis, order = 1, orders.get(max(orders, default=0))
    else:
      continue
    if order is not None and array.ndim > axis and array.shape[axis] == len(order):
      reordered[name] = array.take(order, axis)
  return reordered


def _orders(arrays: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
  """For each stage, the numbers that its channels, in our order, have in theirs."""
  orders: dict[int, np.ndarray] = {}
  for stage in (1, 2, 3):
    scale = arrays.get(f"layer{stage}.0.bn2.weight")
    if scale is None:
      break
    count, before = len(scale), orders.get(stage - 1)
    if before is None:
      orders[stage] = np.arange(count)
      continue
    missing = count - len(before)
    if missing < 0:
      break
    kept = missing // 2 + before
    orders[stage] = np.concatenate([kept, np.setdiff1d(np.arange(count), kept)])
  return orders


def _tensor_name(name: str) -> str:
  theirs = tensor_name(name)
  return theirs.replace("downsample", "shortcut").replace("fc.", "linear.")
