"""Parameters and multiply-adds of a module, counted from its traced program."""

import dataclasses
import functools
import math
from typing import Any

import jax
from flax import linen as nn
from jax.extend import core


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
  """
  x = jax.ShapeDtypeStruct((1, *input_shape), "float32")
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  # A part whose batch norms are in training mode updates their statistics.
  apply = functools.partial(module.apply, mutable=["batch_stats"])
  program = jax.make_jaxpr(apply)(variables, x)
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
      total += repeats * sum(_macs(inner) for inner in _programs(equation.params.values()))
  return total


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape


def _programs(values: Any) -> list[core.Jaxpr]:
  """The programs among an equation's parameters (of jit, scan, remat, custom derivatives)."""
  found: list[core.Jaxpr] = []
  for value in values:
    if isinstance(value, core.ClosedJaxpr):
      found.append(value.jaxpr)
    elif isinstance(value, core.Jaxpr):
      found.append(value)
    elif isinstance(value, tuple | list):
      found.extend(_programs(value))
  return found
