"""How branch and shortcut come together: the paper's sum, and what arXiv 1603.05027 tries instead.

Each is a module called with the shortcut's and the branch's output, both (N, H, W, C), and gives
their sum, of the same shape: `addition(name=…)(shortcut, branch)`.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models.convolution import Conv
from resnet_jax.models.factories import ModuleFactory
from resnet_jax.models.fields import check_choice, check_fraction, check_number

AdditionName = Literal["sum", "scaled", "exclusive_gate", "shortcut_gate", "dropout"]


class Addition(nn.Module):
  """The sum: shortcut + branch (paper, eq. 1)."""

  @nn.compact
  def __call__(self, shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    """(N, H, W, C) twice -> (N, H, W, C)."""
    return _sum(shortcut, branch)


class ScaledAddition(nn.Module):
  """Constant scaling: shortcut_scale * shortcut + branch_scale * branch (1603.05027, 3.1).

  Attributes:
    shortcut_scale: lambda of its eq. 6.
    branch_scale: Factor of the branch, 1 - lambda or 1 in its Table 1.
  """

  shortcut_scale: float = 0.5
  branch_scale: float = 0.5

  @nn.compact
  def __call__(self, shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    """(N, H, W, C) twice -> (N, H, W, C)."""
    return _sum(self.shortcut_scale * shortcut, self.branch_scale * branch)


class GatedAddition(nn.Module):
  """Gating: (1 - g) * shortcut + g * branch, g = sigmoid(1x1 convolution) (1603.05027, 3.1).

  The gate is computed from the shortcut's output: the unit's input, where the shortcut is the
  identity.

  Attributes:
    initial_bias: Of the gate; the more negative, the nearer to the identity at first.
    exclusive: Whether the branch is gated too, or the shortcut alone.
    conv: Convolution of the gate: `conv(features, kernel_size, stride, use_bias=…, name=…)`.
    param_dtype: Of the gate's bias (C,).
  """

  initial_bias: float = -6.0
  exclusive: bool = True
  conv: ModuleFactory = Conv
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    """(N, H, W, C) twice -> (N, H, W, C)."""
    features = shortcut.shape[-1]
    start = nn.initializers.constant(self.initial_bias)
    bias = self.param("bias", start, (features,), self.param_dtype)
    scores = self.conv(features, 1, 1, use_bias=False, name="conv")(shortcut)
    gate = nn.sigmoid(scores + bias.astype(scores.dtype))
    return _sum((1 - gate) * shortcut, gate * branch if self.exclusive else branch)


class DropoutAddition(nn.Module):
  """Dropout of the shortcut's output, then the sum (1603.05027, 3.1).

  Attributes:
    rate: Probability with which a value is dropped.
    deterministic: Whether nothing is dropped (evaluation). Else `apply` needs a `dropout` key.
  """

  rate: float = 0.5
  deterministic: bool = False

  @nn.compact
  def __call__(self, shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    """(N, H, W, C) twice -> (N, H, W, C)."""
    return _sum(nn.Dropout(self.rate, deterministic=self.deterministic)(shortcut), branch)


def select_addition(
  name: AdditionName,
  parameters: tuple[float, ...] = (),
  *,
  conv: ModuleFactory = Conv,
  param_dtype: Any = jnp.float32,
  train: bool = False,
) -> ModuleFactory:
  """A row of 1603.05027's Table 1.

  Args:
    name: sum, scaled, exclusive_gate, shortcut_gate or dropout.
    parameters: Of scaled: factor of the shortcut and of the branch, default (0.5, 0.5). Of the
      gates: initial bias, default (-6,). Of dropout: rate, default (0.5,).
    conv: Convolution of gates.
    param_dtype: Of the biases of gates.
    train: Whether dropout drops.

  Returns:
    A factory of a module called with (shortcut, branch).

  Raises:
    ValueError: There is no such name, or it has other parameters.
  """
  gate = {"conv": conv, "param_dtype": param_dtype}
  factories: dict[str, tuple[ModuleFactory, tuple[str, ...], dict[str, Any]]] = {
    "sum": (Addition, (), {}),
    "scaled": (ScaledAddition, ("shortcut_scale", "branch_scale"), {}),
    "exclusive_gate": (GatedAddition, ("initial_bias",), {"exclusive": True, **gate}),
    "shortcut_gate": (GatedAddition, ("initial_bias",), {"exclusive": False, **gate}),
    "dropout": (DropoutAddition, ("rate",), {"deterministic": not train}),
  }
  check_choice("addition", name, AdditionName)
  factory, fields, settings = factories[name]
  if not isinstance(parameters, tuple) or (parameters and len(parameters) != len(fields)):
    raise ValueError(
      f"addition_parameters={parameters!r}: addition {name!r} takes "
      f"{f'none, or the numbers {fields}' if fields else 'none'}"
    )
  check = check_fraction if name == "dropout" else check_number
  values = (check("addition_parameters", parameter) for parameter in parameters)
  return functools.partial(factory, **settings, **dict(zip(fields, values, strict=False)))


def _sum(shortcut: jax.Array, branch: jax.Array) -> jax.Array:
  if shortcut.shape != branch.shape:
    raise ValueError(
      f"shortcut and branch have to be alike: a shortcut of shape {shortcut.shape} beside a branch "
      f"of {branch.shape}; give a shortcut that projects, such as ProjectionShortcut or nn.Dense"
    )
  return shortcut + branch
