"""Residual networks of other libraries, in NumPy: their names, and what their code computes.

Written from the libraries' sources, to be compared with what a conversion gives: no name, axis,
stride, padding or epsilon of this file is taken from the package.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

EPSILON = {"keras": 1.001e-5}
BASIC, BOTTLENECK = 2, 3  # convolutions of a block


@dataclasses.dataclass(frozen=True)
class Plain:
  """A network of a library, of two stages of one and two blocks (three of akamaster).

  Attributes:
    source: The library.
    layers: Convolutions of a block, BASIC or BOTTLENECK.
    width: Channels of the first stage's 3x3 convolutions.
    strides: Which convolution of a bottleneck strides, 1 or 2.
    deep: Whether stem and shortcuts are those of ResNet-D.
    squeezes: Whether blocks squeeze and excite.
    projects: Whether shortcuts of other shapes are convolutions; else zeros at both sides.
  """

  source: str
  layers: int = BASIC
  width: int = 4
  strides: int = 2
  deep: bool = False
  squeezes: bool = False
  projects: bool = True

  @property
  def sizes(self) -> tuple[int, ...]:
    return (1, 2, 1) if self.source == "akamaster" else (1, 2)

  @property
  def features(self) -> int:
    return self.width * 2 ** (len(self.sizes) - 1) * (4 if self.layers == BOTTLENECK else 1)

  def names(self, stage: int, block: int, part: str) -> str:
    """Of a convolution or a batch norm of a block; both numbered from 1, as are its convolutions.

    `part` is conv1, norm1, …, or convs, norms of the shortcut.
    """
    kind, number = part[:-1], part[-1]
    match self.source:
      case "transformers":
        kind = {"conv": "convolution", "norm": "normalization"}[kind]
        inner = f"shortcut.{kind}" if number == "s" else f"layer.{int(number) - 1}.{kind}"
        return f"resnet.encoder.stages.{stage - 1}.layers.{block - 1}.{inner}"
      case "keras":
        kind, number = {"conv": "conv", "norm": "bn"}[kind], {"s": "0"}.get(number, number)
        return f"conv{stage + 1}_block{block}_{number}_{kind}"
    if number == "s":
      index = (kind == "norm") + self.deep
      inner = f"{'shortcut' if self.source == 'akamaster' else 'downsample'}.{index}"
    else:
      inner = f"{ {'conv': 'conv', 'norm': 'bn'}[kind] }{number}".replace(" ", "")
    return f"layer{stage}.{block - 1}.{inner}"

  @property
  def stem(self) -> list[tuple[str, str]]:
    """Names of the convolutions and batch norms before the first stage."""
    if self.deep:
      return [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")]
    return {
      "transformers": [
        ("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization")
      ],
      "keras": [("conv1_conv", "conv1_bn")],
    }.get(self.source, [("conv1", "bn1")])

  @property
  def head(self) -> str:
    return {"transformers": "classifier.1", "keras": "predictions", "akamaster": "linear"}.get(
      self.source, "fc"
    )


def random_arrays(plain: Plain, classes: int) -> dict[str, np.ndarray]:
  """A state dict of the library's, or for Keras its arrays by "layer/leaf"."""
  generator = np.random.default_rng(0)
  arrays: dict[str, np.ndarray] = {}
  keras = plain.source == "keras"

  def conv(name: str, size: int, inputs: int, outputs: int) -> int:
    kernel = generator.normal(0, (size * size * inputs) ** -0.5, (outputs, inputs, size, size))
    if keras:
      arrays[f"{name}/kernel"] = kernel.transpose(2, 3, 1, 0)
      arrays[f"{name}/bias"] = generator.normal(0, 0.5, outputs)
    else:
      arrays[f"{name}.weight"] = kernel
    return outputs

  def norm(name: str, channels: int) -> None:
    leaves = (
      ("gamma", "beta", "moving_mean", "moving_variance")
      if keras
      else ("weight", "bias", "running_mean", "running_var")
    )
    joint = "/" if keras else "."
    for leaf in leaves:
      # Variances so small that the epsilon shows.
      low, high = (1e-4, 1e-3) if "var" in leaf else (-0.5, 0.5)
      value = generator.uniform(low, high, channels)
      value = 0.02 * (1 + value) if leaf in ("gamma", "weight") else value
      arrays[f"{name}{joint}{leaf}"] = 0.1 * value if "mean" in leaf else value
    if not keras:
      arrays[f"{name}.num_batches_tracked"] = np.int64(7)

  channels, width = 3, plain.width
  size = 3 if plain.deep or plain.source == "akamaster" else 7
  for number, (convolution, its_norm) in enumerate(plain.stem):
    outputs = width // 2 if plain.deep and number < 2 else width
    channels = conv(convolution, size, channels, outputs)
    norm(its_norm, channels)
  for stage, blocks in enumerate(plain.sizes, 1):
    inner = width * 2 ** (stage - 1)
    outputs = inner * (4 if plain.layers == BOTTLENECK else 1)
    for block in range(1, blocks + 1):
      inputs = channels
      sizes = (1, 3, 1) if plain.layers == BOTTLENECK else (3, 3)
      for number, kernel in enumerate(sizes, 1):
        last = number == len(sizes)
        inputs = conv(
          plain.names(stage, block, f"conv{number}"), kernel, inputs, outputs if last else inner
        )
        norm(plain.names(stage, block, f"norm{number}"), inputs)
      if block == 1 and plain.projects and channels != outputs:
        conv(plain.names(stage, block, "convs"), 1, channels, outputs)
        norm(plain.names(stage, block, "norms"), outputs)
      if plain.squeezes:
        name = f"layer{stage}.{block - 1}.se"
        for layer, shape in (("fc1", (outputs // 4, outputs)), ("fc2", (outputs, outputs // 4))):
          arrays[f"{name}.{layer}.weight"] = generator.normal(0, 1, (*shape, 1, 1))
          arrays[f"{name}.{layer}.bias"] = generator.normal(0, 1, shape[0])
      channels = outputs
  kernel = generator.normal(0, 1, (classes, channels))
  name, leaf = (plain.head, "/kernel") if keras else (plain.head, ".weight")
  arrays[name + leaf] = kernel.T if keras else kernel
  arrays[name + ("/bias" if keras else ".bias")] = generator.normal(0, 1, classes)
  return {name: np.asarray(a, a.dtype if a.ndim == 0 else np.float32) for name, a in arrays.items()}


def logits(plain: Plain, arrays: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
  """What the library's code computes; images (N, H, W, 3)."""
  keras = plain.source == "keras"

  def conv(x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
    if keras:
      kernel, bias = arrays[f"{name}/kernel"].transpose(3, 2, 0, 1), arrays[f"{name}/bias"]
    else:
      kernel, bias = arrays[f"{name}.weight"], 0
    size = kernel.shape[-1]
    return _windows(x, size, stride, size // 2, kernel.astype(float)) + bias

  def norm(x: np.ndarray, name: str) -> np.ndarray:
    if keras:
      scale, bias, mean, variance = (
        arrays[f"{name}/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
      )
    else:
      scale, bias, mean, variance = (
        arrays[f"{name}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
      )
    epsilon = EPSILON.get(plain.source, 1e-5)
    return (x - mean) / np.sqrt(variance.astype(float) + epsilon) * scale + bias

  def shortcut(x: np.ndarray, stage: int, channels: int) -> np.ndarray:
    stride = 1 if stage == 1 else 2
    if not plain.projects:
      missing = channels - x.shape[-1]
      sides = (missing // 2, missing - missing // 2)
      return np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), sides))
    if plain.deep:
      x, stride = _pooled(x, 2, stride, 0, np.nanmean) if stride > 1 else x, 1
    return norm(conv(x, plain.names(stage, 1, "convs"), stride), plain.names(stage, 1, "norms"))

  x = images.astype(float)
  for number, (convolution, its_norm) in enumerate(plain.stem):
    stride = 2 if number == 0 and plain.source != "akamaster" else 1
    x = _relu(norm(conv(x, convolution, stride), its_norm))
  if plain.source != "akamaster":
    x = _pooled(x, 3, 2, 1, np.nanmax)
  for stage, blocks in enumerate(plain.sizes, 1):
    for block in range(1, blocks + 1):
      y = x
      strides = {plain.strides if plain.layers == BOTTLENECK else 1: 2 if stage > 1 else 1}
      for number in range(1, plain.layers + 1):
        stride = strides.get(number, 1) if block == 1 else 1
        y = norm(
          conv(y, plain.names(stage, block, f"conv{number}"), stride),
          plain.names(stage, block, f"norm{number}"),
        )
        y = _relu(y) if number < plain.layers else y
      if plain.squeezes:
        y = y * _excitation(y, arrays, f"layer{stage}.{block - 1}.se")
      x = _relu(y + (x if x.shape == y.shape else shortcut(x, stage, y.shape[-1])))
  features = x.mean((1, 2))
  if keras:
    return features @ arrays[f"{plain.head}/kernel"] + arrays[f"{plain.head}/bias"]
  return features @ arrays[f"{plain.head}.weight"].T + arrays[f"{plain.head}.bias"]


def _relu(x: np.ndarray) -> np.ndarray:
  return np.maximum(x, 0)


def _excitation(y: np.ndarray, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
  hidden = y.mean((1, 2)) @ arrays[f"{name}.fc1.weight"][..., 0, 0].T + arrays[f"{name}.fc1.bias"]
  hidden = _relu(hidden) @ arrays[f"{name}.fc2.weight"][..., 0, 0].T + arrays[f"{name}.fc2.bias"]
  return (1 / (1 + np.exp(-hidden)))[:, None, None]


def _windows(x: np.ndarray, size: int, stride: int, pad: int, kernel: np.ndarray) -> np.ndarray:
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
  return np.einsum("nhwcij,ocij->nhwo", views[:, ::stride, ::stride], kernel, optimize=True)


def _pooled(
  x: np.ndarray, size: int, stride: int, pad: int, reduce: Callable[..., np.ndarray]
) -> np.ndarray:
  """Of the pixels that there are; of 2x2 windows the last ones may be smaller."""
  more = (-(x.shape[1] + 2 * pad - size) % stride, -(x.shape[2] + 2 * pad - size) % stride)
  ends = more if size == 2 else (0, 0)
  sides = ((0, 0), (pad, pad + ends[0]), (pad, pad + ends[1]), (0, 0))
  padded = np.pad(x, sides, constant_values=np.nan)
  views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
  return reduce(views[:, ::stride, ::stride], axis=(-2, -1))
