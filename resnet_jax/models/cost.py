"""Parameters and multiply-adds of a module, counted from its traced program."""

import dataclasses
import math
from typing import Any

import jax
from flax import linen as nn
from jax.extend import core

from resnet_jax.models.catalog import Network
from resnet_jax.models.fields import check_integer


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a module costs.

  Attributes:
    params: Number of trainable parameters (batch statistics not counted).
    macs: Multiply-adds of its convolutions and matrix products for one image, as the paper's
      Table 1 counts ("FLOPs"); normalisation, activations, additions and pooling are not counted.
  """

  params: int
  macs: int


def cost(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
  """Counts without computing anything: the module is only traced.

  Args:
    module: A network or any part of one that is called with an array.
    input_shape: Shape of one input without its batch axis: (height, width, channels) for an image.

  Raises:
    ValueError: It is no module, or cannot take such an input.
  """
  if not isinstance(module, nn.Module):
    raise ValueError(f"module={module!r}: expected a Linen module, as models.create gives")
  is_shape = isinstance(input_shape, tuple | list)
  if not is_shape or (isinstance(module, Network) and len(input_shape) != 3):
    raise ValueError(
      f"input_shape={input_shape!r}: expected (height, width, channels), without the batch axis"
    )
  shape = tuple(check_integer("input_shape", size, 1) for size in input_shape)
  x = jax.ShapeDtypeStruct((1, *shape), "float32")
  # One trace for both counts. The key also serves parts in training mode that draw random numbers.
  program, (_, variables) = jax.make_jaxpr(module.init_with_output, return_shape=True)(
    jax.random.key(0), x
  )
  params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {})))
  return Cost(params, _macs(program.jaxpr))


def _macs(jaxpr: core.Jaxpr) -> int:
  """Multiply-adds of a program and of the programs within it."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      kernel = _shape(equation.invars[1])
      out_dim = equation.params["dimension_numbers"].rhs_spec[0]
      per_output = math.prod(kernel) // kernel[out_dim]
      total += math.prod(_shape(equation.outvars[0])) * per_output
    elif equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      lengths = (_shape(equation.invars[0])[axis] for axis in contracted)
      total += math.prod(_shape(equation.outvars[0])) * math.prod(lengths)
    else:
      repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
      total += repeats * sum(_macs(inner) for inner in core.jaxprs_in_params(equation.params))
  return total


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape
