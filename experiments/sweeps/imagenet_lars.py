"""Rate and weight decay of LARS: ResNet-50 on ImageNet, batches of 32,768 on a slice v5e-64.

  resnet-jax sweep imagenet_lars --workdir gs://BUCKET/lars --launcher skypilot --accelerator v5e-64
    --config.data.data_dir=gs://BUCKET/data --config.data.prepared_dir=gs://BUCKET/prepared
    --config.data.streaming.shuffle_block=16

in one line; docs/pods.md says how data gets there.

The recipe is `imagenet:resnet50,lars`, which says where its numbers are from. Around
them: its rate, 29, and lower and higher ones in steps of 4 (MLPerf's for half the batch is 25); its
weight decay, 1e-4, half and twice that (MLPerf's for smaller batches is 2e-4).

A chip has 512 images at once: by the account of the TPU's compiler they take 14.4 of its 16 GiB.

  resnet-jax benchmark compile --topology v5e:8x8 --config imagenet:resnet50,lars

says so, and how many would fit; on chips with less memory, or fewer of them, add
--config.accumulate=4.

Not run yet.
"""

import itertools
from collections.abc import Iterator
from typing import Any

config = "imagenet:resnet50,lars"


def sweep() -> Iterator[dict[str, Any]]:
  """Four rates, three weight decays each; the recipe's own decay first."""
  for decay, rate in itertools.product((1e-4, 5e-5, 2e-4), (21.0, 25.0, 29.0, 33.0)):
    yield {
      "optimizer.learning_rate": rate,
      "optimizer.weight_decay": decay,
    }
