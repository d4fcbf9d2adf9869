"""The work of every side: training or inference of one network on one fixed batch."""

import dataclasses
from typing import Literal

Mode = Literal["training", "inference"]
MODES: tuple[Mode, ...] = ("training", "inference")

# SGD of every side: the paper's momentum and L2 penalty, and a learning rate that stays finite when
# training repeats one batch.
LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class PeerTask:
  """One network and what every side does with it.

  Bottlenecks stride in their 3x3 convolution, and the pooling of the ImageNet stem pads both sides,
  as in torchvision and in Flax's example ("v1.5").

  Attributes:
    network: Its name in the catalog.
    mode: A step of SGD on the batch, or its logits.
    batch_size: Number of images.
    image_size: Height and width in pixels.
    dtype: Dtype of the computation; parameters are float32.
    stage_sizes: Number of blocks in each stage.
    width: Channels of the first stage's 3x3 convolutions.
    bottleneck: Whether blocks are bottlenecks.
    cifar: Whether the stem is a 3x3 convolution without pooling.
    shortcut: Option A (zeros for missing channels) or B (projections).
    num_classes: Number of classes.
    threads: Threads of PyTorch on a CPU; JAX by itself uses one per core.
  """

  network: str
  mode: Mode
  batch_size: int
  image_size: int
  dtype: Literal["float32", "bfloat16"]
  stage_sizes: tuple[int, ...]
  width: int
  bottleneck: bool
  cifar: bool
  shortcut: Literal["A", "B"]
  num_classes: int
  threads: int

  def __post_init__(self) -> None:
    """Converts the list of stage sizes from JSON to a tuple."""
    object.__setattr__(self, "stage_sizes", tuple(self.stage_sizes))
