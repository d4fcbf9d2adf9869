"""The environment of a command that runs with one device, where the tests have several."""

import os

# The last flag of a name counts.
ONE_DEVICE = {
  "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
}
