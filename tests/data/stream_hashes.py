"""Prints what a process of a run is shown: a line of epoch, example and the hash of its pixels.

Arguments, as JSON: size, batch_size, first_step, steps, threads, seed; and for several processes
coordinator, hosts and host.
"""

import dataclasses
import hashlib
import itertools
import json
import sys

import jax
import numpy as np
from made_jpegs import SMALL, MadeJpegs, dataset_of

from resnet_jax.data import training_batches


def hashes(size, batch_size, first_step, steps, threads=2, seed=0, host=0, hosts=1):
  """(epoch, example, hash) of each example of this host's share, in order."""
  # Without noise the view is exact, whatever the batch's size; the noise's keys are the flip's.
  settings = dataclasses.replace(SMALL, decode_threads=threads, color_noise=0.0)
  split = dataset_of(MadeJpegs(size), seed, settings).splits["train"]
  view = jax.jit(split.view)
  stream = training_batches(split, seed, batch_size, first_step, host, hosts)
  for batch in itertools.islice(stream, steps):
    images, _ = view(split.constants, batch, jax.random.key(seed))
    for row in range(len(batch["example"])):
      shown = batch["image"][row].tobytes() + np.asarray(images[row]).tobytes()
      digest = hashlib.blake2b(shown, digest_size=8).hexdigest()
      yield int(batch["epoch"][row]), int(batch["example"][row]), digest
  stream.close()


if __name__ == "__main__":
  arguments = json.loads(sys.argv[1])
  if coordinator := arguments.pop("coordinator", None):
    hosts, host = arguments.pop("hosts"), arguments.pop("host")
    jax.distributed.initialize(coordinator, hosts, host)
    arguments |= {"hosts": jax.process_count(), "host": jax.process_index()}
    assert (jax.process_count(), jax.process_index()) == (hosts, host)
  for line in hashes(**arguments):
    print(json.dumps(line), flush=True)
