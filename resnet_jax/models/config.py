"""Which network a run trains: the model section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from resnet_jax.models.catalog import Network, create
from resnet_jax.models.factories import ActivationName
from resnet_jax.models.fields import DtypeName
from resnet_jax.models.normalization import NormName
from resnet_jax.models.resnet import BlockName

_NOT_CONFIGURABLE = ("parent", "name")
# What a config file or a command line can say: values that JSON can hold, no functions.
_CONFIGURABLE: dict[str, Any] = {
  "activation": ActivationName,
  "block": BlockName,
  "dtype": DtypeName,
  "norm": NormName | None,
  "param_dtype": DtypeName,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A network of the catalog, and the fields of its module that differ from the paper's.

  Attributes:
    name: One of `resnet_jax.models.names()`.
    overrides: Values by field of the module, for example {"shortcut": "B"}.
  """

  name: str = "resnet20"
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def create(self, **more: Any) -> Network:
    """The module, with `more` fields beside the overrides; raises `ValueError` as `create` does."""
    return create(self.name, **(dict(self.overrides) | more))


def configurable_fields(module: Network) -> dict[str, tuple[Any, Any]]:
  """Type and value of each field of a network that a config can set."""
  hints = get_type_hints(type(module)) | _CONFIGURABLE
  return {
    field.name: (hints[field.name], getattr(module, field.name))
    for field in dataclasses.fields(module)
    if field.name not in _NOT_CONFIGURABLE
  }
