"""Residual networks and their plain twins, for ImageNet and for CIFAR (paper, Table 1 and 4.2)."""

import functools
from typing import Any, Literal

import jax
from flax import linen as nn

from resnet_jax.models.additions import AdditionName, select_addition
from resnet_jax.models.blocks import (
  PREACTIVATIONS,
  BasicBlock,
  Block,
  BottleneckBlock,
  StrideIn,
  UnitOrder,
  channels_per_group,
  check_order,
)
from resnet_jax.models.convolution import Conv, ConvPadding
from resnet_jax.models.factories import (
  Activation,
  ActivationName,
  ModuleFactory,
  activation_function,
)
from resnet_jax.models.fields import (
  check_choice,
  check_dtype,
  check_flag,
  check_fraction,
  check_images,
  check_integer,
  check_precision,
  check_sizes,
  set_checked,
)
from resnet_jax.models.heads import Pooling, dense, pool
from resnet_jax.models.normalization import NoNorm, NormName, check_norm, norm_factory
from resnet_jax.models.pooling import POOL_PADDINGS
from resnet_jax.models.shortcuts import Projection, ProjectionShortcut, ShortcutOption
from resnet_jax.models.squeeze_excitation import SqueezeExcitation
from resnet_jax.models.stages import Stage, Transition
from resnet_jax.models.stems import STEM_STRIDES, Stem, StemName

BlockName = Literal["basic", "bottleneck"]
_BLOCKS: dict[Any, type[Block]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class ResNet(nn.Module):
  """Stem, stages, pooling, classifier.

  Each stage halves the resolution and doubles the width of the one before; the first keeps both.
  Parameters are named stem, stage1, stage2, … and head; blocks are stage1.block1, …. The defaults
  are the paper's ImageNet networks.

  Attributes:
    stage_sizes: Number of blocks in each stage.
    block: basic (two 3x3 convolutions) or bottleneck (1x1, 3x3, 1x1; four times as wide). From
      Python also a subclass of `Block`.
    width: Channels of the stem, and of the 3x3 convolutions of the first stage.
    widening: Factor of the width of all stages, not of the stem (wide, arXiv 1605.07146).
    groups: Groups of the 3x3 convolution of bottlenecks (ResNeXt's cardinality, arXiv 1611.05431).
      They multiply its width, each being `width_per_group` wide.
    width_per_group: Of a bottleneck's 3x3 convolution, in 64ths of the paper's width: 4 with 32
      groups is ResNeXt 32x4d, 128 with one group torchvision's wide_resnet.
    stem: imagenet (7x7 convolution and max-pooling, both of stride 2), cifar (3x3 convolution) or
      deep (three 3x3 convolutions and max-pooling: ResNet-D).
    shortcut: A, B or C (paper, section 3.3); None for a plain network.
    projection: How B and C project: conv as the paper, or pool_conv, an average pooling that
      strides before the convolution (ResNet-D).
    addition: How shortcut and branch come together: sum, or what 1603.05027, Table 1, tries:
      scaled, exclusive_gate, shortcut_gate, dropout (which needs a `dropout` key in training).
    addition_parameters: Of scaled, the factors of shortcut and branch; of the gates, the initial
      bias; of dropout, the rate. Empty: (0.5, 0.5), (-6,), (0.5,).
    order: Of the parts of a unit: see `resnet_jax.models.blocks`. The pre-activations end with one
      more activation, after the last stage (1603.05027, appendix).
    stride_in: The convolution that strides in a bottleneck: 1x1 as in the paper, or 3x3 ("v1.5").
    transition: Where the block that changes the dimensions stands in its stage: first, as in the
      paper, or last.
    squeeze_excitation: Reduction of `SqueezeExcitation` in each block, for example 16; None for
      none.
    output_stride: Pixels of the image for each of the last feature map. Stages that would exceed it
      dilate their convolutions (and pool_conv's pooling) instead of striding, and compute the
      features of the strided network and those between; with conv_padding=same other ones, for
      strided convolutions pad otherwise there. None for the network's own: 32, or 4 for CIFAR.
    head: What the classifier is given, pooled by avg or max, or the map flattened. none for neither
      pooling nor classifier, whatever num_classes is: the output is the last feature map.
    num_classes: Number of classes; 0 for no classifier: the output is what was pooled (N, C).
    use_bias: Whether convolutions have a bias.
    norm: batch (`BatchNorm`), None for none. From Python also a factory that takes
      `use_running_average`, `dtype`, `param_dtype` and `name`, those of the next two that are set,
      and `scale_init` for `zero_init_residual`.
    bn_momentum: Weight of the past in the running statistics; None for the norm's own, 0.9.
    bn_epsilon: Added to the variance; None for the norm's own, 1e-5.
    frozen_bn: Whether batch norm uses its running statistics in training too and leaves them as
      they are (fine-tuning, detection). Its scale and bias are parameters like any other: freeze
      them in the optimizer.
    zero_init_residual: Whether the last norm of each branch starts with scale zero (1706.02677).
    activation: The non-linearity, by name. From Python also a function.
    conv_padding: symmetric, as Caffe and PyTorch, or same, as TensorFlow: see `Conv`.
    pool_padding: Before and after, of the stem's max-pooling: (0, 1) as Caffe, (1, 1) as PyTorch.
    dtype: Of the computation; batch statistics, pooling and logits are float32 or wider.
    param_dtype: Of the parameters.
    scan: Whether the equal blocks of a stage are one loop, which compiles in seconds at any depth
      and on CPUs is ten times slower. Variables then have another layout, and `init` draws other
      values from the same key: see `resnet_jax.models.to_scanned`.
    remat: Whether the activations within a block are computed again in the backward pass. (XLA's
      CPU compiler undoes it unless blocks are scanned.)
  """

  stage_sizes: tuple[int, ...]
  block: BlockName | type[Block] = "basic"
  width: int = 64
  widening: int = 1
  groups: int = 1
  width_per_group: int = 64
  stem: StemName = "imagenet"
  shortcut: ShortcutOption | None = "B"
  projection: Projection = "conv"
  addition: AdditionName = "sum"
  addition_parameters: tuple[float, ...] = ()
  order: UnitOrder = "original"
  stride_in: StrideIn = "1x1"
  transition: Transition = "first"
  squeeze_excitation: int | None = None
  output_stride: int | None = None
  head: Pooling = "avg"
  num_classes: int = 1000
  use_bias: bool = False
  norm: NormName | ModuleFactory | None = "batch"
  bn_momentum: float | None = None
  bn_epsilon: float | None = None
  frozen_bn: bool = False
  zero_init_residual: bool = False
  activation: ActivationName | Activation = "relu"
  conv_padding: ConvPadding = "symmetric"
  pool_padding: tuple[int, int] = (0, 1)
  dtype: str = "float32"
  param_dtype: str = "float32"
  scan: bool = False
  remat: bool = False

  def __post_init__(self) -> None:
    """Checks all that can be checked before anything is traced."""
    set_checked(self, check_sizes, "stage_sizes")
    if not (isinstance(self.block, type) and issubclass(self.block, Block)):
      check_choice("block", self.block, BlockName)
    for name, choices in (
      ("stem", StemName),
      ("shortcut", ("A", "B", "C", None)),
      ("projection", Projection),
      ("stride_in", StrideIn),
      ("transition", Transition),
      ("head", Pooling),
      ("conv_padding", ConvPadding),
      ("pool_padding", POOL_PADDINGS),
    ):
      set_checked(self, check_choice, name, choices=choices)
    positive = ("width", "widening", "groups", "width_per_group", "squeeze_excitation")
    set_checked(self, check_integer, *positive, at_least=1)
    set_checked(self, check_integer, "num_classes", at_least=0)
    set_checked(self, check_flag, "use_bias", "frozen_bn", "zero_init_residual", "scan", "remat")
    set_checked(self, check_dtype, "dtype", "param_dtype")
    set_checked(self, check_fraction, "bn_momentum", "bn_epsilon")
    set_checked(self, check_choice, "output_stride", choices=self._strides())
    activation_function(self.activation)
    check_order(self.order, self.zero_init_residual)
    select_addition(self.addition, self.addition_parameters)
    check_norm(self.norm, self.bn_momentum, self.bn_epsilon, self.frozen_bn)
    self._check_combination()
    super().__post_init__()

  def _check_combination(self) -> None:
    """Raises a ValueError for fields that say something about what this network does not have."""
    if issubclass(self._block_class(), BottleneckBlock):
      channels_per_group(self.width * self.widening, self.width_per_group)
    else:
      for name, neutral in (("stride_in", "1x1"), ("groups", 1), ("width_per_group", 64)):
        value = getattr(self, name)
        if value != neutral:
          raise ValueError(
            f"{name}={value!r}: only bottleneck blocks have a choice, not block={self.block!r}: "
            f"leave it {neutral!r}, or block='bottleneck'"
          )
    if self.stem == "cifar" and self.pool_padding != (0, 1):
      raise ValueError(
        f"pool_padding={self.pool_padding}: the stem for CIFAR (stem='cifar') has no pooling"
      )
    if self.stem == "deep" and self.width < 2:
      raise ValueError(f"width={self.width}: the deep stem halves it, so at least 2 is needed")
    if self.projection != "conv" and self.shortcut not in ("B", "C"):
      raise ValueError(
        f"projection={self.projection!r}: shortcut={self.shortcut!r} projects nowhere; B and C do"
      )
    if self.addition != "sum" and self.shortcut is None:
      raise ValueError(f"addition={self.addition!r}: a plain network (shortcut=None) adds nothing")
    if self.zero_init_residual and self.norm is None:
      raise ValueError("zero_init_residual=True: with norm=None there is no scale to start at zero")
    if self.zero_init_residual and self.shortcut is None:
      raise ValueError("zero_init_residual=True: a plain network (shortcut=None) would stay zero")

  def _block_class(self) -> type[Block]:
    return self.block if isinstance(self.block, type) else _BLOCKS[self.block]

  def _strides(self) -> tuple[int, ...]:
    """Pixels of the image for each of the stem's and every stage's output."""
    return tuple(STEM_STRIDES[self.stem] * 2**i for i in range(len(self.stage_sizes)))

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False, return_features: bool = False) -> Any:
    """Logits of a batch of images.

    Args:
      images: (N, H, W, C), any float dtype.
      train: Normalise by the batch's statistics and update the running ones (collection
        `batch_stats`, to be passed as `mutable`).
      return_features: Also return the feature maps.

    Returns:
      Logits (N, num_classes), float32 or wider; with num_classes=0 what was pooled, and with
      head="none" the last feature map. With `return_features` also a dictionary of the outputs of
      `stem`, `stage1`, `stage2`, …, each (N, H', W', C') in `dtype`. In pre-activation orders those
      of stages are the sums, not activated (nor, in full_preactivation, normalised): the next unit
      does that. What the head is given, and head="none" gives, is activated (and normalised).

    Raises:
      ValueError: The images have another rank, dtype, size or number of channels than they can; the
        variables are of the other layout; float64 without JAX's x64 mode; `norm` cannot be called.
    """
    check_precision(dtype=self.dtype, param_dtype=self.param_dtype)
    check_images(images, self.output_stride or self._strides()[-1])
    dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    conv = functools.partial(Conv, use_bias=self.use_bias, padding=self.conv_padding, **dtypes)
    norm = norm_factory(
      self.norm,
      momentum=self.bn_momentum,
      epsilon=self.bn_epsilon,
      use_running_average=self.frozen_bn or not train,
      **dtypes,
    )
    activation = activation_function(self.activation)
    block = self._block(conv, norm, train)
    # A full pre-activation normalises both ways at once, and its projections no more
    # (1603.05027, appendix, and its released code).
    projection_norm = NoNorm if self.order == "full_preactivation" else norm
    projection = functools.partial(ProjectionShortcut, kind=self.projection)
    x = Stem(self.width, self.stem, self.pool_padding, conv, norm, activation, name="stem")(images)
    features = {"stem": x}
    dilation = 1
    for i, size in enumerate(self.stage_sizes):
      stride, first_dilation = (1 if i == 0 else 2), dilation
      if self._strides()[i] > (self.output_stride or self._strides()[-1]):
        stride, dilation = 1, 2 * dilation
      stage = Stage(
        block,
        size,
        self._channels(i),
        stride,
        self.shortcut,
        conv,
        projection_norm,
        projection,
        transition=self.transition,
        # conv1's activation is that of the first unit, unless pooling stands between them.
        preactivate=i > 0 or self.stem != "cifar",
        first_dilation=first_dilation,
        dilation=dilation,
        scan=self.scan,
        remat=self.remat,
        name=f"stage{i + 1}",
      )
      features[f"stage{i + 1}"] = x = stage(x)
    if self.order == "full_preactivation":
      x = norm(name="norm")(x)
    if self.order in PREACTIVATIONS:
      x = activation(x)
    output = pool(x, self.head)
    if self.num_classes and self.head != "none":
      output = dense(self.num_classes, self.dtype, self.param_dtype, "head")(output)
    return (output, features) if return_features else output

  def _channels(self, stage: int) -> int:
    """Output channels of a stage, counted from 0."""
    return self.width * self.widening * 2**stage * self._block_class().expansion

  def _block(self, conv: ModuleFactory, norm: ModuleFactory, train: bool) -> ModuleFactory:
    activation = activation_function(self.activation)
    addition = select_addition(
      self.addition,
      self.addition_parameters,
      conv=conv,
      param_dtype=self.param_dtype,
      train=train,
    )
    block: ModuleFactory = self._block_class()
    if issubclass(self._block_class(), BottleneckBlock):
      block = functools.partial(
        block,
        stride_in=self.stride_in,
        groups=self.groups,
        width_per_group=self.width_per_group,
      )
    attention = None
    if self.squeeze_excitation is not None:
      attention = functools.partial(
        SqueezeExcitation,
        self.squeeze_excitation,
        activation,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
      )
    return functools.partial(
      block,
      conv=conv,
      norm=norm,
      activation=activation,
      order=self.order,
      addition=addition,
      attention=attention,
      zero_init_residual=self.zero_init_residual,
    )
