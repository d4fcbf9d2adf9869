"""Networks with outputs before that of class 0, such as a background's, without them."""

from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.models.catalog import Network
from resnet_jax.weights.directory import WeightsInfo


def without_offset(
  model: Network, variables: dict[str, Any], info: WeightsInfo
) -> tuple[Network, dict[str, Any]]:
  """A network whose output i is that of class i.

  Logits are those of the outputs that stay, bit for bit; softmax is then over these alone.

  Args:
    model: The network.
    variables: Its `params` and `batch_stats`.
    info: What is known of them; the first `class_offset` outputs are left out.

  Returns:
    The network with as many classes fewer, and its variables; the same ones where there is no
    offset.

  Raises:
    UserError: The network has no classifier, or not that many outputs.
  """
  offset = info.class_offset
  if not offset:
    return model, variables
  params = variables["params"]
  if "head" not in params or not 0 < offset < model.num_classes:
    raise UserError(
      f"class_offset={offset} of a network with {model.num_classes} outputs: some have to be left"
    )
  head = {name: leaf[..., offset:] for name, leaf in params["head"].items()}
  smaller = model.clone(num_classes=model.num_classes - offset)
  return smaller, variables | {"params": params | {"head": head}}
