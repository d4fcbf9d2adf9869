"""torchvision's residual networks: their state dicts read, and written.

Bottlenecks stride in the 3x3 convolution, the max-pooling pads both sides, epsilon is 1e-5
(torchvision/models/resnet.py).
"""

import pathlib
from typing import Any

import numpy as np

from resnet_jax.data.preprocessing import imagenet_preprocessing
from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.models.resnet import ResNet
from resnet_jax.run.files import write_whole
from resnet_jax.weights.foreign import Foreign, ForeignFile, torch_fields
from resnet_jax.weights.imagenet import imagenet_class_names
from resnet_jax.weights.plain_arrays import flat, variable_shapes
from resnet_jax.weights.torch_names import structure, tensor_name

# Of the files that torchvision publishes: how their names end, which is the beginning of their
# digest -> short side before the 224 crop, and top-1 accuracy in %, by torchvision's own tables.
PUBLISHED = {
  "f37072fd": (256, 69.758),  # resnet18
  "b627a593": (256, 73.314),  # resnet34
  "0676ba61": (256, 76.130),  # resnet50
  "11ad3fa6": (232, 80.858),
  "63fe2227": (256, 77.374),  # resnet101
  "cd907fc2": (232, 81.886),
  "394f9c45": (256, 78.312),  # resnet152
  "f82ba261": (232, 82.284),
  "7cdf4587": (256, 77.618),  # resnext50_32x4d
  "1a0047aa": (232, 81.198),
  "8ba56ff5": (256, 79.312),  # resnext101_32x8d
  "110c445d": (232, 82.834),
  "173b62eb": (232, 83.246),  # resnext101_64x4d
  "95faca4d": (256, 78.468),  # wide_resnet50_2
  "9ba9bcbe": (232, 81.602),
  "32ee1156": (256, 78.848),  # wide_resnet101_2
  "d733dc28": (232, 82.510),
}
# What a network has to be to be one of torchvision's, beside what shapes tell.
_NEEDED: dict[str, Any] = {
  "stem": "imagenet",
  "projection": "conv",
  "addition": "sum",
  "order": "original",
  "transition": "first",
  "squeeze_excitation": None,
  "output_stride": None,
  "head": "avg",
  "use_bias": False,
  "norm": "batch",
  "activation": "relu",
  "conv_padding": "symmetric",
  "pool_padding": (1, 1),
}


def read(file: ForeignFile, model: ResNet) -> Foreign:
  """The weights of a file of torchvision's.

  Preprocessing is that of torchvision's own ImageNet weights, with a short side of 256 pixels, or
  of 232 for those published files whose digest says so. These have the names of ImageNet's classes.

  Args:
    file: What was read.
    model: The network of the catalog whose weights they shall be.
  """
  published = file.sha256[:8] in PUBLISHED
  resize, top1 = PUBLISHED.get(file.sha256[:8], (256, None))
  return Foreign(
    file.arrays,
    tensor_name,
    torch_fields(model) | structure(file.arrays, model.width),
    preprocessing=imagenet_preprocessing(resize=resize),
    class_names=imagenet_class_names() if published else None,
    top1=None if top1 is None else top1 / 100,
  )


def to_torchvision(model: Network, variables: Any) -> dict[str, np.ndarray]:
  """A state dict of torchvision's, which its `load_state_dict` takes once it is of tensors.

  The values are those of the variables, bit for bit. `num_batches_tracked`, which is not a weight
  and has no counterpart here, is 0.

  Args:
    model: The network.
    variables: Its `params` and `batch_stats`, scanned or not.

  Returns:
    Arrays by torchvision's names.

  Raises:
    UserError: torchvision's code would compute another function of these weights, or the variables
      are not the network's.
  """
  _require_torchvisions(model)
  leaves = {name: np.asarray(leaf) for name, leaf in flat(variables).items()}
  wanted = variable_shapes(model)
  for name in sorted(wanted.keys() | leaves.keys()):
    if name not in wanted or name not in leaves or wanted[name].shape != leaves[name].shape:
      raise UserError(f"the variables are not those of this network: {name} differs")
  tensors: dict[str, np.ndarray] = {}
  for name, array in leaves.items():
    theirs = tensor_name(name)
    axes = (3, 2, 0, 1) if array.ndim == 4 else None  # None: dense kernels are transposed
    tensors[theirs] = np.ascontiguousarray(array.transpose(axes))
    if name.endswith("/mean"):
      counter = theirs.replace("running_mean", "num_batches_tracked")
      tensors[counter] = np.zeros((), np.int64)
  return tensors


def save_torchvision(path: str | pathlib.Path, model: Network, variables: Any) -> None:
  """Writes `to_torchvision` as a safetensors file, as a whole or not at all.

  Raises:
    UserError: As `to_torchvision`.
  """
  from safetensors.numpy import save

  tensors = to_torchvision(model, variables)
  # PyTorch's own metadata: readers of hubs refuse files without it.
  write_whole(pathlib.Path(path), save(tensors, metadata={"format": "pt"}))


def _require_torchvisions(model: Network) -> None:
  if not isinstance(model, ResNet):
    raise UserError(f"{type(model).__name__}: only residual networks are written for torchvision")
  needed = _NEEDED | {"stride_in": "3x3"} if model.block == "bottleneck" else _NEEDED
  for field, value in needed.items():
    if getattr(model, field) != value:
      raise UserError(
        f"{field} of this network is {getattr(model, field)!r}, and torchvision's code knows only "
        f"{value!r}: it would compute something else of the same weights"
      )
  for field, value, allowed in (
    ("shortcut", model.shortcut, ("B",)),
    ("bn_epsilon", model.bn_epsilon, (None, 1e-5)),
    ("num_classes", bool(model.num_classes), (True,)),
    ("stages", len(model.stage_sizes), (4,)),
    ("width", model.width * model.widening, (model.width,)),
  ):
    if value not in allowed:
      raise UserError(f"{field} of this network is {value!r}: torchvision has no such network")
