"""Which data a run sees, and how: the data section of a config."""

import dataclasses
from typing import Annotated, Literal

import msgspec

# Checked when a config is loaded or built, like the types.
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]


@dataclasses.dataclass(frozen=True)
class ResidentConfig:
  """Data sets that lie whole on the device: digits, CIFAR, synthetic.

  Attributes:
    padding: Zeros added on each side, after the mean is subtracted, before a random crop of the
      original size (the paper pads CIFAR by 4, section 4.2).
    flip: Whether to mirror each training image left to right with probability 1/2.
  """

  padding: CountOrZero = 4
  flip: bool = True


@dataclasses.dataclass(frozen=True)
class StreamingConfig:
  """Data sets that are decoded on the host while training: ImageNet (section 3.4).

  Attributes:
    image_size: Height and width of the crop, in pixels; that of the mean image that was prepared,
      where the mean image is subtracted.
    short_side_min: Smallest short side, in pixels, to which a training image is resized.
    short_side_max: Largest short side, in pixels; the size is drawn uniformly, both included.
    short_side_evaluation: Short side, in pixels, before the centre crop of the evaluation view.
    flip: Whether to mirror each training image left to right with probability 1/2.
    color_noise: Standard deviation of the noise along the principal components of RGB (AlexNet's
      colour augmentation, which the paper uses; 0.1 there), 0 for none.
    decode_threads: Threads that decode, 0 for one a core.
  """

  image_size: Count = 224
  short_side_min: Count = 256
  short_side_max: Count = 480
  short_side_evaluation: Count = 256
  flip: bool = True
  color_noise: Annotated[float, msgspec.Meta(ge=0)] = 0.1
  decode_threads: CountOrZero = 0


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
  """Random pixels and labels of any size, to separate the cost of input from that of compute.

  Attributes:
    train_examples: Number of training images.
    validation_examples: Number of validation images, and of test images.
    image_size: Height and width in pixels.
    num_classes: Number of classes.
  """

  train_examples: Count = 1024
  validation_examples: Count = 256
  image_size: Count = 32
  num_classes: Count = 10


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which data set, which of its examples train, and what a training view does to them.

  Attributes:
    dataset: digits, cifar10, cifar100, imagenet2012, folder (images in folders, one a class) or
      synthetic; or the name of any set of images with one label each in tensorflow-datasets.
    data_dir: Where tensorflow-datasets keeps its data and `resnet-jax prepare` its own; None stands
      for the environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets. TFRecord files may
      also lie in a bucket (gs://bucket/data, s3://bucket/data). For `folder`, the folder that holds
      train/<class>/ and, if there are, val/ and test/.
    held_out: Training examples held out for validation, the last of the official order (for sets
      that are decoded on the host, of the order in which tensorflow-datasets stores them; for
      folders, of a fixed shuffled one): 5000 for the paper's 45k/5k split of CIFAR-10, 0 to train
      on all of them. Must be 0 where the data set has a validation split of its own: digits,
      synthetic, imagenet2012, a folder with val/.
    mean: What is subtracted: the mean image (pixel, as the paper does) or its mean colour.
    resident: Settings of data sets that lie whole on the device.
    streaming: Settings of data sets that are decoded on the host.
    synthetic: Settings of the synthetic data set.
    prepared_dir: Where `resnet-jax prepare` keeps its own files, if not in DATA_DIR/resnet_jax: for
      data that is read-only or in a bucket (for which None stands for a folder of the user's
      cache).
  """

  dataset: str = "digits"
  data_dir: str | None = None
  held_out: CountOrZero = 0
  mean: Literal["pixel", "channel"] = "pixel"
  resident: ResidentConfig = ResidentConfig()
  streaming: StreamingConfig = StreamingConfig()
  synthetic: SyntheticConfig = SyntheticConfig()
  prepared_dir: str | None = None
