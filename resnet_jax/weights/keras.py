"""ResNet-50, -101 and -152 of Keras applications (v1), the HDF5 files of their weights.

Bottlenecks stride in the first 1x1 convolution, as in the paper; epsilon is 1.001e-5; convolutions
have biases, which are folded into the means of the batch norms after them. Channels are BGR minus
Caffe's means; the crop of 224 pixels is taken, as usual, of a short side of 256. The applications'
softmax is left away: here outputs are logits.
"""

import re
from collections.abc import Mapping

import numpy as np

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.foreign import Foreign, ForeignFile, torch_fields
from resnet_jax.weights.imagenet import imagenet_class_names

_LEAVES = {
  "kernel": "kernel",
  "scale": "gamma",
  "bias": "beta",
  "mean": "moving_mean",
  "var": "moving_variance",
}
_BGR_MEAN = (103.939, 116.779, 123.68)


def read(file: ForeignFile, model: ResNet) -> Foreign:
  """The weights of a file of Keras's.

  Args:
    file: What was read: with a classifier, not one of those called "notop".
    model: The network of the catalog whose weights they shall be.

  Raises:
    UserError: It is a file of another layout than the applications' own.
  """
  arrays = fold_biases(_by_layer(file))
  classes = len(arrays.get("predictions/bias", ()))
  return Foreign(
    arrays,
    array_name,
    torch_fields(model, "1x1") | {"bn_epsilon": 1.001e-5},
    kernels="HWIO",
    preprocessing=Preprocessing(_BGR_MEAN, channels="BGR", size=224, resize=256),
    class_names=imagenet_class_names() if classes == 1000 else None,
  )


def array_name(name: str) -> str:
  """The name of the array of a variable; raises `KeyError` where there is no such layer."""
  _, *path, leaf = name.split("/")
  parts = "/".join(path)
  if match := re.fullmatch(r"stage(\d+)/block(\d+)/(.+)", parts):
    number = {
      **{f"{kind}{i}": i for kind in ("conv", "norm") for i in (1, 2, 3)},
      "shortcut/conv": 0,
      "shortcut/norm": 0,
    }[match[3]]
    kind = "conv" if "conv" in match[3] else "bn"
    layer = f"conv{int(match[1]) + 1}_block{match[2]}_{number}_{kind}"
  else:
    layer = {"stem/conv": "conv1_conv", "stem/norm": "conv1_bn", "head": "predictions"}[parts]
    if layer == "predictions":
      return f"{layer}/{leaf}"
  return f"{layer}/{_LEAVES[leaf]}"


def fold_biases(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same function without biases of convolutions: scale * (x + bias - mean) is of one mean."""
  folded = dict(arrays)
  for name in arrays:
    if name.endswith("_conv/bias"):
      mean = name.replace("_conv/bias", "_bn/moving_mean")
      if mean in folded and folded[mean].shape == folded[name].shape:
        folded[mean] = folded[mean] - folded.pop(name)
  return folded


def _by_layer(file: ForeignFile) -> dict[str, np.ndarray]:
  """Arrays as "layer/kernel": the files have "layer/layer/kernel:0"."""
  arrays: dict[str, np.ndarray] = {}
  for name, array in file.arrays.items():
    *_, layer, leaf = ("", *name.split("/"))
    arrays[f"{layer}/{leaf.removesuffix(':0')}"] = array
  if "conv1_conv/kernel" not in arrays:
    raise UserError(
      f"{file.name} is not one of Keras applications' ResNet v1: it has no layer conv1_conv"
    )
  return arrays
