"""Residual learning around any branch: y = F(x) + h(x) (paper, section 3.1)."""

from collections.abc import Callable

import jax
from flax import linen as nn

from resnet_jax.models.additions import Addition
from resnet_jax.models.factories import Activation
from resnet_jax.models.fields import check_function


class Residual(nn.Module):
  """A branch of any number of layers beside a shortcut.

  The parameters of the two are those of the modules given, under `branch` and `shortcut`.

  Attributes:
    branch: F: a module or function of the input, for example `nn.Sequential([…])`.
    shortcut: h: a module or function of the input; None for the identity.
    activation: After the addition, for example `nn.relu` as in the paper; None for none.
    addition: Called with (h(x), F(x)).
  """

  branch: Callable[[jax.Array], jax.Array]
  shortcut: Callable[[jax.Array], jax.Array] | None = None
  activation: Activation | None = None
  addition: Callable[[jax.Array, jax.Array], jax.Array] = Addition()

  def __call__(self, x: jax.Array) -> jax.Array:
    """The input's shape -> the branch's output shape, which must be the shortcut's.

    Raises:
      ValueError: Branch and shortcut differ in shape, or a field cannot be called with arrays.
    """
    for name in ("branch", "shortcut", "activation", "addition"):
      if name in ("branch", "addition") or getattr(self, name) is not None:
        check_function(name, getattr(self, name))
    y = self.addition(x if self.shortcut is None else self.shortcut(x), self.branch(x))
    return y if self.activation is None else self.activation(y)
