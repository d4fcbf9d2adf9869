"""Importing the package does nothing but define names."""

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "tensorboardX", "torch", "numba")


def run(code: str) -> str:
  return subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
  ).stdout


def test_importing_every_room_brings_in_no_tensorflow_nor_plotting():
  code = f"""
import sys, resnet_jax
assert not {{"jax", "flax", "numpy"}} & set(sys.modules), "the bare import is not light"
from resnet_jax import models, data, evaluation, training, weights
resnet_jax.data.open_dataset(resnet_jax.data.DataConfig("digits"), seed=0)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
  # The loop's writer of events: small, and without TensorFlow.
  assert run(code).strip() == "['tensorboardX']"


def test_what_training_imports_leaves_out_what_its_first_step_does_not_need():
  unneeded = (*HEAVY[:3], "orbax.checkpoint", "scipy.special", "boto3", "numba", "tyro", "sklearn")
  code = f"""
import sys, resnet_jax.training.loop, resnet_jax.training.dry_run, resnet_jax.run.environment
print([name for name in {unneeded!r} if name in sys.modules])
"""
  assert run(code).strip() == "[]"


@pytest.mark.parametrize("first", ["resnet_jax.run", pytest.param("torch", marks=pytest.mark.long)])
def test_pytorch_can_be_imported_before_and_after(first):
  pytest.importorskip("torch", reason="PyTorch is not installed")
  code = f"import {first}, torch, resnet_jax.run; print(torch.ones(2).sum().item())"
  assert run(code).strip() == "2.0"


def test_importing_changes_no_jax_configuration_logging_signal_or_environment():
  code = """
import logging, os, signal, sys, warnings
import jax, flax, optax, orbax.checkpoint, tensorboardX, sklearn.datasets, chex, tyro, PIL.Image
def snapshot():
  return (
    dict(jax.config.values),
    {name: (logger.level, logger.propagate, [type(h) for h in logger.handlers])
     for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]
     if isinstance(logger, logging.Logger) and not name.startswith("resnet_jax")},
    [signal.getsignal(s) for s in signal.valid_signals()],
    dict(os.environ),
    list(warnings.filters),
    list(sys.path),
  )
before = snapshot()
import resnet_jax
from resnet_jax import models, data, evaluation, training, run, weights, analysis, cli
import resnet_jax.training.loop
after = snapshot()
for a, b in zip(before, after, strict=True):
  if isinstance(a, dict):
    assert {k: v for k, v in b.items() if k in a} == a
  else:
    assert a == b
"""
  run(code)


@pytest.mark.parametrize(
  "name", ["models", "data", "run", "weights", "evaluation", "training", "analysis", "benchmarks"]
)
def test_every_exported_name_exists(name):
  import resnet_jax

  room = getattr(resnet_jax, name)
  for exported in getattr(room, "__all__", ()):
    assert getattr(room, exported) is not None


def test_an_unknown_room_is_an_attribute_error():
  import resnet_jax

  with pytest.raises(AttributeError, match="launchpad"):
    resnet_jax.launchpad  # noqa: B018
