"""How a network is tested: the single view, ten crops, or densely over several scales (paper, 3.4).

A protocol is resolved against the data set, which fills in what is not set and refuses what makes
no sense, and then gives the passes through a split whose scores are to be averaged.
"""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import numpy as np

from resnet_jax.data.config import Interpolation, StreamingConfig
from resnet_jax.data.dataset import Dataset, Split
from resnet_jax.data.feed import evaluation_batches, even_batch_size
from resnet_jax.errors import UserError
from resnet_jax.evaluation.scores import Pass, dense_scorer, view_scorer
from resnet_jax.models import Network

ProtocolName = Literal["center", "ten_crop", "dense"]
NAMES = get_args(ProtocolName)

# The paper's scales, for its views of 224 pixels.
PAPER_SHORT_SIDES, PAPER_VIEW = (224, 256, 384, 480, 640), 224
QUANTUM = 32


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What of each image a network is shown, and which of its outputs are averaged.

  Attributes:
    name: center (one view), ten_crop (four corners and the centre, each mirrored too) or dense
      (every place of whole images of several sizes, and of their mirror images).
    crop: Height and width of a view in pixels; None for the one that the run was trained with.
    short_sides: To which images are resized, in pixels: one, or for dense any number. None for the
      run's own; for dense the paper's five.
    quantum: Of dense, to a multiple of which the long side is rounded. None for 32; 1 for exact.
  """

  name: ProtocolName = "center"
  crop: int | None = None
  short_sides: tuple[int, ...] | None = None
  quantum: int | None = None

  @property
  def is_the_runs_own(self) -> bool:
    """Whether it is what training validates by."""
    return self == Protocol()

  def __str__(self) -> str:
    if self.crop is None or self.short_sides is None:
      return "center (the single view: images as they are)"
    sides = ", ".join(map(str, self.short_sides))
    if self.name == "dense":
      rounded = f"rounded to {self.quantum}" if self.quantum != 1 else "exact"
      return (
        f"dense (views of {self.crop} everywhere, mirrored too; short sides {sides}; long sides "
        f"{rounded})"
      )
    crops = "ten crops" if self.name == "ten_crop" else "centre crop"
    return f"{self.name} ({crops} of {self.crop}; short side {sides})"


def resolve(protocol: Protocol, dataset: Dataset, split: Split, own: StreamingConfig) -> Protocol:
  """The protocol with everything filled in that a data set leaves open.

  Args:
    protocol: What is asked for.
    dataset: The data set.
    split: The split that is to be measured.
    own: The streaming section of the run's config.

  Raises:
    UserError: The data set or the network cannot be tested so.
  """
  # Loaded where it is needed: Numba, which compiles the decoder, takes half a second.
  from resnet_jax.data.decoded_examples import DecodedExamples

  if not isinstance(split.fetch, DecodedExamples):
    if not protocol.is_the_runs_own:
      height, width, _ = dataset.image_shape
      raise UserError(
        f"all images of {dataset.name} are {width}x{height} pixels and shown whole, the single "
        "view: leave out --protocol, and sizes"
      )
    return protocol
  crop = protocol.crop or own.image_size
  sides, quantum = protocol.short_sides, protocol.quantum
  if protocol.name == "dense":
    if sides is None and crop != PAPER_VIEW:
      raise UserError(
        f"--protocol dense: the paper's short sides are for views of {PAPER_VIEW} pixels, and these"
        f" are of {crop}: give --short-sides"
      )
    sides, quantum = sides or PAPER_SHORT_SIDES, quantum or QUANTUM
  else:
    if quantum is not None or len(sides or ()) > 1:
      raise UserError("--short-sides and --quantum belong to --protocol dense: give --short-side")
    sides = sides or (own.short_side_evaluation,)
  if min(sides) < crop:
    raise UserError(
      f"a view of {crop} pixels does not fit a short side of {min(sides)}: choose a longer one, or "
      "a smaller --crop"
    )
  return Protocol(protocol.name, crop, sides, quantum)


def make_passes(
  protocol: Protocol, split: Split, own: StreamingConfig, model: Network, batch_size: int
) -> list[Pass]:
  """The passes through a split whose scores, averaged, are the protocol's.

  Args:
    protocol: As `resolve` gives it.
    split: The split.
    own: The streaming section of the run's config.
    model: The network.
    batch_size: Views of the run's own size at a time, over all devices. Larger and more views of an
      image make batches smaller, so that memory does.
  """
  if protocol.crop is None or protocol.short_sides is None:
    return [_pass(split, model, batch_size)]
  from resnet_jax.data.evaluation_views import center_crops, ten_crops

  # In pixels, of which memory is a multiple.
  pixels = batch_size * own.image_size**2
  if protocol.name == "dense":
    return _dense_passes(split, model, protocol, pixels, own.interpolation)
  (short_side,) = protocol.short_sides
  settings = dataclasses.replace(own, image_size=protocol.crop, short_side_evaluation=short_side)
  views = pixels / protocol.crop**2
  if protocol.name == "ten_crop":
    return [_pass(ten_crops(split, settings), model, views / 10)]
  return [_pass(center_crops(split, settings), model, views)]


def _dense_passes(
  split: Split, model: Network, protocol: Protocol, pixels: float, interpolation: Interpolation
) -> list[Pass]:
  from resnet_jax.data.evaluation_views import plain_view
  from resnet_jax.data.whole_images import group_by_shape, stored_shapes, whole_image_batches

  # Whole images do not have the size of the mean image, so its colour is subtracted from all.
  mean = np.asarray(split.constants["mean"])
  constants = {**split.constants, "mean": mean.mean((0, 1)) if mean.ndim > 1 else mean}
  stored = stored_shapes(split)

  def most(height: int, width: int) -> float:
    return pixels / (2 * height * width)  # Each image is shown twice, once mirrored.

  def make_pass(short_side: int) -> Pass:
    quantum = protocol.quantum or QUANTUM
    groups = group_by_shape(stored, short_side, quantum, most, jax.device_count())
    return Pass(
      name=split.name,
      size=split.size,
      batches=functools.partial(whole_image_batches, split, groups, interpolation),
      constants=constants,
      view=plain_view,
      score=dense_scorer(model, protocol.crop or PAPER_VIEW),
      programs=len(groups),
    )

  return [make_pass(short_side) for short_side in protocol.short_sides or ()]


def _pass(split: Split, model: Network, views: float) -> Pass:
  batch_size = even_batch_size(split.size, views, jax.device_count())
  batches = functools.partial(evaluation_batches, split, batch_size)
  return Pass(split.name, split.size, batches, split.constants, split.view, view_scorer(model))
