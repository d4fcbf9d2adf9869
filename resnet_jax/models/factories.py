"""What blocks and networks are given to build themselves of."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
from flax import linen as nn

from resnet_jax.models.fields import check_function

# A class or partial of a Linen module: called with the fields still open, it gives the module.
ModuleFactory = Callable[..., nn.Module]
Activation = Callable[[jax.Array], jax.Array]
ActivationName = Literal["relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu", "silu", "identity"]


def activation_function(activation: ActivationName | Activation) -> Activation:
  """The function that a name stands for; a function stands for itself.

  Raises:
    ValueError: There is no such name, or it is a class of modules.
  """
  if callable(activation):
    check_function("activation", activation)
    return activation
  if activation not in get_args(ActivationName):
    raise ValueError(
      f"activation={activation!r}: expected one of {get_args(ActivationName)}, or a function"
    )
  return _identity if activation == "identity" else getattr(nn, activation)


def _identity(x: jax.Array) -> jax.Array:
  return x
