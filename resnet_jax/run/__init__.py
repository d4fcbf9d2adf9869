"""What a run is on disk: its config, directory, environment, records and checkpoints."""

from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.config import differences, from_json, load_config, override_config, to_json
from resnet_jax.run.environment import record_environment
from resnet_jax.run.lock import locked
from resnet_jax.run.records import Records, read_records
from resnet_jax.run.workdir import claim, read_config

__all__ = [
  "Checkpoints",
  "Records",
  "claim",
  "differences",
  "from_json",
  "load_config",
  "locked",
  "override_config",
  "read_config",
  "read_records",
  "record_environment",
  "to_json",
]
