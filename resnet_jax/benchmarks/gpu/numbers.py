"""Results that must agree between a GPU and a CPU: networks, steps, learning rates, resident data.

Most are computed in float64, in which no defect can be mistaken for rounding.
"""

import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import devices, models
from resnet_jax.data.config import DataConfig, SyntheticConfig
from resnet_jax.models.config import ModelConfig
from resnet_jax.training.build import Run, build_run
from resnet_jax.training.config import Config, ScheduleConfig, WarmupConfig
from resnet_jax.training.loop import compile_step, device_batches
from resnet_jax.training.restore import initial_state

Numbers = Iterator[tuple[str, Any]]

_EXACT = {"dtype": "float64", "param_dtype": "float64"}
_STEPS = 3

# Networks that cover each kind of block, stem and shortcut: their fields and image sizes. They are
# narrow to keep the file of gradients small.
_NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
  "resnet20": ({}, 32),
  "resnet18": ({"width": 16}, 64),
  "resnet50": ({"width": 16}, 64),
}


def write(path: str) -> None:
  """Computes all numbers on JAX's default device and writes them as .npz; needs x64 mode.

  Args:
    path: The file to write.
  """
  print(f"computing on {jax.devices()[0].device_kind}, jax {jax.__version__}", flush=True)
  found = {}
  parts: tuple[Callable[[], Numbers], ...] = (_resident_data, _schedules, _networks, _step)
  for part in parts:
    begun = time.perf_counter()
    # The index makes the names of a tree's leaves unique.
    for name, tree in part():
      for i, leaf in enumerate(jax.tree.leaves(jax.device_get(tree))):
        found[f"{name}.{i}"] = np.asarray(leaf)
    print(f"{part.__name__.strip('_')}: {time.perf_counter() - begun:.1f} s", flush=True)
  np.savez(path, **found)  # type: ignore[arg-type]


def compare(expected: pathlib.Path, found: pathlib.Path) -> dict[str, tuple[float | None, float]]:
  """Compares two files of numbers.

  Returns:
    For each part, the largest difference in an array relative to its largest magnitude, and the
    tolerance. The difference is None if it is not finite, or if shapes or dtypes differ.

  Raises:
    ValueError: The files do not hold arrays of the same names.
  """
  with np.load(expected) as theirs, np.load(found) as ours:
    if {*theirs} != {*ours}:
      raise ValueError(f"the arrays differ: {sorted({*theirs} ^ {*ours})[:3]}, …")
    result: dict[str, tuple[float | None, float]] = {}
    for name in theirs:
      part = name.rpartition(".")[0]
      allowed = next(bound for prefix, bound in _ALLOWED if part.startswith(prefix))
      before, _ = result.get(part, (0.0, allowed))
      difference = _difference(theirs[name], ours[name])
      worse = None if before is None or difference is None else max(before, difference)
      result[part] = (worse, allowed)
  return result


# Tolerances by prefix of a part's name. TensorFloat-32 and bfloat16 are compared with the CPU's
# float32 and bfloat16 in networks of up to 50 layers, which shows gross defects only.
_ALLOWED = (
  ("data", 1e-6),
  ("schedule", 1e-6),
  ("network float64", 1e-9),
  ("network float32", 0.02),
  ("network bfloat16", 0.2),
  ("step", 1e-8),
)


def _difference(expected: np.ndarray, found: np.ndarray) -> float | None:
  if expected.shape != found.shape or expected.dtype != found.dtype:
    return None
  if not expected.size:
    return 0.0
  wide, other = expected.astype(np.float64), found.astype(np.float64)
  difference = float(np.abs(wide - other).max() / max(np.abs(wide).max(), 1e-30))
  return difference if np.isfinite(difference) else None


def _run(**fields: Any) -> Run:
  """Builds a run of ResNet-20 in float64 on data of CIFAR's shape."""
  synthetic = SyntheticConfig(train_examples=64, validation_examples=16)
  config = Config(
    model=ModelConfig("resnet20", _EXACT),
    data=DataConfig(dataset="synthetic", held_out=0, synthetic=synthetic),
    batch_size=16,
    length="100 steps",
  )
  return build_run(Config(**{**vars(config), **fields}))


def _resident_data() -> Numbers:
  """Computes the training and evaluation views of a data set that is held on the device."""
  run = _run()
  examples = jnp.arange(32, dtype=jnp.int32)
  batch = {"epoch": examples // 8, "example": examples}
  for name, split in run.dataset.splits.items():
    size = split.size
    shown = jax.jit(split.view)(
      split.constants, batch | {"example": batch["example"] % size}, run.key
    )
    yield f"data {name}", shown


def _schedules() -> Numbers:
  """Computes the learning rates of every kind of schedule."""
  warmup = WarmupConfig(kind="linear", length="10 steps")
  kinds: tuple[ScheduleConfig, ...] = (
    ScheduleConfig(kind="stepwise", boundaries=("30 steps", "60 steps")),
    ScheduleConfig(kind="cosine", warmup=warmup),
    ScheduleConfig(kind="polynomial", power=2.0, warmup=warmup),
    ScheduleConfig(kind="constant"),
  )
  for schedule in kinds:
    rates = jax.jit(jax.vmap(_run(schedule=schedule).learning_rate.schedule))
    yield f"schedule {schedule.kind}", rates(jnp.arange(100))


def _networks() -> Numbers:
  """Computes logits in each dtype, and in float64 gradients and batch statistics."""
  for name, (fields, size) in _NETWORKS.items():
    images = np.random.default_rng(0).standard_normal((4, size, size, 3))
    exact = models.create(name, num_classes=10, **fields, **_EXACT)
    variables = _random_variables(exact, images)

    def loss(
      params: Any, rest: Any, model: Any = exact, images: np.ndarray = images
    ) -> tuple[Any, Any]:
      logits, updated = model.apply(
        {"params": params, **rest}, images, train=True, mutable=["batch_stats"]
      )
      return jnp.square(logits).sum(), (logits, updated)

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    rest = {"batch_stats": variables["batch_stats"]}
    yield f"network float64 training {name}", gradient(variables["params"], rest)
    for dtype in ("float64", "float32", "bfloat16"):
      kinds = _EXACT if dtype == "float64" else {"dtype": dtype}
      model = models.create(name, num_classes=10, **fields, **kinds)
      kept = variables if dtype == "float64" else jax.tree.map(np.float32, variables)
      apply = jax.jit(model.apply)
      yield (
        f"network {dtype} {name}",
        apply(kept, images.astype(kept["params"]["head"]["kernel"].dtype)),
      )


def _random_variables(model: Any, images: np.ndarray) -> Any:
  """Draws variables with NumPy, so that they are the same on every device."""
  generator = np.random.default_rng(1)

  def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    name = path[-1].key
    values = generator.standard_normal(leaf.shape)
    if name == "kernel":
      return values * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return 1 + np.abs(values) / 10 if name in ("scale", "var") else values / 10

  return jax.tree_util.tree_map_with_path(
    draw, jax.eval_shape(model.init, jax.random.key(0), images)
  )


def _step() -> Numbers:
  """Computes the state after `_STEPS` steps of a run, as `train` compiles and feeds them."""
  run = _run()
  state, batches, step = initial_state(run), device_batches(run, 0), compile_step(run)
  constants, key = devices.replicate((run.dataset.splits["train"].constants, run.key))
  for batch in itertools.islice(batches, _STEPS):
    state, sums = step(state, constants, batch, key)
  batches.close()
  yield "step", (state, sums)
