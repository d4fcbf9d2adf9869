"""Which data a run sees, and how: the data section of a config."""

import dataclasses
from typing import Annotated, Literal

import msgspec

# Checked when a config is loaded or built, like the types.
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

Channels = Literal["RGB", "BGR"]
Interpolation = Literal["bilinear", "bicubic"]


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
class InceptionCropConfig:
  """Crops of random area and aspect ratio (Szegedy et al. 2015, 1409.4842, section 6).

  Attributes:
    area_min: Smallest share of the image's area.
    area_max: Largest share.
    aspect_min: Smallest ratio of width to height.
    aspect_max: Largest ratio.
  """

  area_min: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.08
  area_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
  aspect_min: Annotated[float, msgspec.Meta(gt=0)] = 3 / 4
  aspect_max: Annotated[float, msgspec.Meta(gt=0)] = 4 / 3


@dataclasses.dataclass(frozen=True)
class ColorJitterConfig:
  """Random brightness, saturation, hue and contrast, in this order; 0 leaves one out.

  Attributes:
    brightness: Largest shift of brightness, where white is 1 (32/255 in Inception's recipe).
    saturation: Saturation is multiplied by 1 - this to 1 + this (0.5).
    hue: Largest turn of the hue, where 1 is the whole circle (0.2).
    contrast: Contrast is multiplied by 1 - this to 1 + this (0.5).
  """

  brightness: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
  saturation: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
  hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
  contrast: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


@dataclasses.dataclass(frozen=True)
class StreamingConfig:
  """Data sets that are decoded on the host while training: ImageNet (section 3.4), folders.

  Attributes:
    image_size: Height and width of the crop, in pixels; that of the mean image that was prepared,
      where the mean image is subtracted.
    crop: How training crops are drawn: with the paper's scale jitter, or as Inception's.
    short_side_min: Smallest short side, in pixels, to which a training image is resized.
    short_side_max: Largest short side, in pixels; the size is drawn uniformly, both included.
    inception: Inception's crop.
    short_side_evaluation: Short side, in pixels, before the centre crop of the evaluation view.
    interpolation: Of the resizing to it, antialiased; that of training is bilinear.
    flip: Whether to mirror each training image left to right with probability 1/2.
    color_noise: Standard deviation of the noise along the principal components of RGB (AlexNet's
      colour augmentation, which the paper uses; 0.1 there), 0 for none.
    color_components: Whose principal components: those that AlexNet's authors published, or those
      that `resnet-jax prepare` computed from the training split.
    color_jitter: The colour augmentation of later recipes, before the mean is subtracted.
    undecodable: What to do about a record that is no whole image: to skip it, which keeps its place
      with weight 0, counts it and warns once; or to stop with a message that names it.
    shuffle_block: How many examples that are stored side by side stay together in the order of
      training, so that one read brings them all: 1 for local data, 16 or so for a bucket.
    decode_threads: Threads that decode, 0 for one a core.
    cache: What to keep in memory once it was read: nothing, the images as stored, or decoded.
  """

  image_size: Count = 224
  crop: Literal["scale_jitter", "inception"] = "scale_jitter"
  short_side_min: Count = 256
  short_side_max: Count = 480
  inception: InceptionCropConfig = InceptionCropConfig()
  short_side_evaluation: Count = 256
  interpolation: Interpolation = "bilinear"
  flip: bool = True
  color_noise: Annotated[float, msgspec.Meta(ge=0)] = 0.1
  color_components: Literal["alexnet", "training_split"] = "alexnet"
  color_jitter: ColorJitterConfig = ColorJitterConfig()
  undecodable: Literal["skip", "stop"] = "skip"
  shuffle_block: Count = 1
  decode_threads: CountOrZero = 0
  cache: Literal["nothing", "encoded", "decoded"] = "nothing"


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
    mean: What is subtracted: the data set's mean image (pixel, as the paper does) or mean colour
      (channel); or numbers, one for each channel, as the weights that a run starts from have them.
    std: What is divided by then: a number for each channel, or one for all.
    scale: What pixels, 0 to 255, are divided by before: 255 where the numbers of mean and std are
      of [0, 1]. The network is shown (pixels / scale - mean) / std.
    channels: In which order the network is shown the colours, and mean and std are given.
    resident: Settings of data sets that lie whole on the device.
    streaming: Settings of data sets that are decoded on the host.
    synthetic: Settings of the synthetic data set.
    prepared_dir: Where `resnet-jax prepare` keeps its own files, if not in DATA_DIR/resnet_jax: for
      data that is read-only or in a bucket (for which None stands for a folder of the user's
      cache). For many hosts it may be a copy in a bucket.
  """

  dataset: str = "digits"
  data_dir: str | None = None
  held_out: CountOrZero = 0
  mean: Literal["pixel", "channel"] | tuple[float, ...] = "pixel"
  std: tuple[Positive, ...] = (1.0,)
  scale: Positive = 1.0
  channels: Channels = "RGB"
  resident: ResidentConfig = ResidentConfig()
  streaming: StreamingConfig = StreamingConfig()
  synthetic: SyntheticConfig = SyntheticConfig()
  prepared_dir: str | None = None
