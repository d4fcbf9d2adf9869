"""The benchmark beside PyTorch and Flax. What it measures is checked, how fast it is never."""

import contextlib
import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sleeping_side

from resnet_jax.benchmarks import worker
from resnet_jax.benchmarks.peers import ours
from resnet_jax.benchmarks.peers.benchmark import NETWORKS, PeersBenchmark, make_task
from resnet_jax.benchmarks.peers.flax_resnet import FlaxResNet
from resnet_jax.benchmarks.peers.summary import summarize
from resnet_jax.benchmarks.side import Side
from resnet_jax.models.config import ModelConfig
from resnet_jax.models.platforms import for_platform
from resnet_jax.weights.plain_arrays import flat
from resnet_jax.weights.torch_names import tensor_name

TINY = ("--networks", "resnet20", "--batch-size", "4", "--image-size", "8")
SHORT = ("--rounds", "2", "--seconds", "0.01")

needs_torch = pytest.mark.skipif(
  importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def task(network="resnet20", mode="training", batch_size=4, image_size=8):
  return make_task(PeersBenchmark(batch_size=batch_size, image_size=image_size), network, mode)


def product(its_task):
  """The network that our side trains."""
  return ours.build(its_task).model


def variables(model, image_size=8, **arguments):
  images = jnp.zeros((1, image_size, image_size, 3))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images, **arguments))


def parameters(model, *arguments, **more):
  return sum(leaf.size for leaf in jax.tree.leaves(variables(model, *arguments, **more)["params"]))


@pytest.mark.parametrize("network", NETWORKS)
def test_all_sides_have_the_same_number_of_parameters(network):
  its = task(network, image_size=32)
  expected = {"resnet20": 269_722, "resnet18": 11_689_512, "resnet50": 25_557_032}[network]
  assert parameters(product(its), 32) == expected
  assert parameters(FlaxResNet(its), 32, train=False) == expected


@needs_torch
@pytest.mark.parametrize("network", NETWORKS)
def test_pytorchs_network_has_them_too(network):
  from resnet_jax.benchmarks.peers.torch_resnet import TorchResNet, torch

  its = task(network, image_size=32)
  with torch.device("meta"):
    count = sum(parameter.numel() for parameter in TorchResNet(its).parameters())
  assert count == parameters(product(its), 32)


@pytest.mark.parametrize("network", NETWORKS)
def test_flaxs_network_has_as_many_multiplications(network):
  its = task(network, image_size=64)

  def flops(model, **arguments):
    images = jnp.zeros((2, 64, 64, 3))
    shapes = variables(model, 64, **arguments)
    applied = jax.jit(lambda its, images: model.apply(its, images, train=False))
    with for_platform("tpu"):  # where a 1x1 convolution is a convolution
      return applied.lower(shapes, images).cost_analysis()["flops"]

  assert flops(product(its)) == pytest.approx(flops(FlaxResNet(its), train=False), rel=0.01)


@needs_torch
@pytest.mark.parametrize("network", NETWORKS)
def test_pytorchs_network_is_the_same_function_of_the_same_weights(network, x64):
  from resnet_jax.benchmarks.peers.torch_resnet import TorchResNet, torch

  its = task(network, image_size=32)
  # One block that keeps the shape, and one that changes it in each further stage.
  its = dataclasses.replace(its, stage_sizes=(2, *(1,) * (len(its.stage_sizes) - 1)))
  exact = {"dtype": "float64", "param_dtype": "float64"}
  model = product(its).clone(stage_sizes=its.stage_sizes, norm="batch", **exact)
  generator = np.random.default_rng(0)
  images = generator.standard_normal((2, 32, 32, 3))

  def draw(path, leaf):
    values = generator.standard_normal(leaf.shape) / 10
    return 1 + np.abs(values) if path[-1].key in ("scale", "var") else values

  weights = jax.tree_util.tree_map_with_path(
    draw, jax.eval_shape(model.init, jax.random.key(0), images)
  )
  expected = jax.jit(model.apply)(weights, images)

  theirs = TorchResNet(its).double().eval()
  tensors = {}
  for name, leaf in flat(weights).items():
    axes = (3, 2, 0, 1) if leaf.ndim == 4 else None
    tensors[tensor_name(name)] = torch.from_numpy(np.array(leaf).transpose(axes).copy())
  missing, unexpected = theirs.load_state_dict(tensors, strict=False)
  assert not unexpected
  assert all(name.endswith("num_batches_tracked") for name in missing)
  found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_step_that_takes_a_known_time_in_the_background_is_reported_to_take_it():
  side = Side("sleeping", "sleeping_side:work", sleeping_side.SleepingTask(step_seconds=0.05))
  with contextlib.closing(side):
    side.wait_until_ready()
    answers = [side.measure(seconds=0.3) for _ in range(3)]
  for answer in answers:
    assert answer["images"] == 3 * answer["steps"]
    assert answer["seconds"] / answer["steps"] >= 0.05
  # A busy machine may hold up some of the turns.
  assert min(answer["seconds"] / answer["steps"] for answer in answers) < 0.08
  assert answer["first_step_seconds"] >= 0.05


@pytest.fixture
def shallow(monkeypatch):
  """Has our side build a ResNet-8."""
  monkeypatch.setattr(
    ours, "ModelConfig", lambda name, fields: ModelConfig(name, fields | {"stage_sizes": (1, 1, 1)})
  )


@pytest.mark.parametrize(
  ("mode", "opener"),
  [("training", ours.work), ("inference", ours.work), ("inference", ours.folded)],
)
@pytest.mark.usefixtures("shallow")
def test_images_are_those_of_all_devices(mode, opener):
  work = opener(task(mode=mode, batch_size=8))
  worker.warm_up(work)
  measured = worker.measure(work, seconds=60, images=20)
  report = work.report()
  assert (measured.images, measured.steps) == (24, 3)
  assert report["devices"] == f"{jax.device_count()} x cpu"
  assert report["parameters"] == 75_290
  if mode == "training":
    # Every step is one of SGD on the same batch: the network learns it by heart.
    assert report["last_loss"] < report["first_loss"]
  else:
    assert report["last_loss"] is None


@pytest.mark.usefixtures("shallow")
def test_a_step_that_leaves_out_examples_is_no_measurement(monkeypatch):
  whole = ours._batch

  def short(its):
    batch = whole(its)
    return batch | {"weight": np.where(np.arange(len(batch["weight"])) < 4, batch["weight"], 0)}

  monkeypatch.setattr(ours, "_batch", short)
  with pytest.raises(RuntimeError, match="4 of 8 images"):
    ours.work(task(batch_size=8))


def test_ratios_are_those_of_the_rounds():
  def answer(images):
    facts = {"platform": "cpu", "devices": "1 x cpu", "parameters": 5, "first_loss": None}
    times = {"setup_seconds": 1.0, "first_step_seconds": 2.0, "last_loss": None}
    return {"images": images, "seconds": 2.0, "peak_memory_bytes": images, **facts, **times}

  rounds = [
    {"ours": answer(ours), "ours_folded": answer(2 * ours), "torch": answer(torch)}
    for ours, torch in ((10, 20), (30, 10), (8, 8))
  ]
  result = summarize(task(), rounds)
  assert (result["ratio_to_torch"], result["ratio_to_torch_range"]) == (1.0, [0.5, 3.0])
  assert result["folded_ratio_to_torch"] == 2.0
  assert not any("ratio_to_ours" in key for key in result)
  assert result["sides"]["ours"]["images_per_second"] == 5.0
  assert result["sides"]["ours"]["images_per_second_range"] == [4.0, 15.0]
  assert result["sides"]["torch"]["peak_memory_bytes"] == 20


def test_the_last_line_is_one_object_with_the_figures(call_here):
  with_torch = ["torch"] if importlib.util.find_spec("torch") else []
  names = ["ours", "flax", *with_torch]
  arguments = (*TINY, *SHORT, "--sides", ",".join(names), "--mode", "training")
  status, output, _ = call_here("benchmark", "peers", *arguments)
  assert status == 0
  values = json.loads(output.splitlines()[-1])
  assert values.keys() >= {
    *("benchmark", "dtype", "rounds", "seconds", "processes", "absent", "load_average_before"),
    *("cpu", "cores", "python", "packages", "commit", "dirty"),
  }
  (result,) = values["results"]
  assert (result["network"], result["mode"], result["batch_size"]) == ("resnet20", "training", 4)
  assert list(result["sides"]) == names
  for name, side in result["sides"].items():
    low, high = side["images_per_second_range"]
    assert 0 < low <= side["images_per_second"] <= high
    assert side["parameters"] == 269_722
    assert side["peak_memory_bytes"] > 0
    assert side["first_step_seconds"] > 0
    assert 0 < side["first_loss"] < 10
    if name != "ours":
      low, high = result[f"ratio_to_{name}_range"]
      assert 0 < low <= result[f"ratio_to_{name}"] <= high
  assert any("resnet20, training" in line for line in output.splitlines())


def test_without_pytorch_the_others_are_measured_and_a_line_says_so(call_here, monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name, *more: None if name == "torch" else found(name, *more)
  )
  arguments = (*TINY, *SHORT, "--sides", "ours,torch", "--mode", "inference")
  status, output, _ = call_here("benchmark", "peers", *arguments)
  values = json.loads(output.splitlines()[-1])
  assert status == 0
  assert list(values["results"][0]["sides"]) == ["ours"]
  (line,) = values["absent"]
  assert line == 'not measured: torch (PyTorch is not installed: pip install "resnet_jax[torch]")'
  assert line in output
  status, _, error = call_here("benchmark", "peers", *TINY, "--sides", "torch")
  assert (status, error) == (
    2,
    'resnet-jax: PyTorch is not installed: pip install "resnet_jax[torch]"\n',
  )


@pytest.mark.parametrize(
  ("arguments", "word"),
  [
    (
      ["--sides", "ours,tensorflow"],
      "no side is called 'tensorflow': there are ours, ours_folded, flax, torch",
    ),
    (["--networks", "resnet21"], "resnet21"),
    (["--networks", "vgg16"], "original residual network"),
    (["--networks", "plain20"], "original residual network"),
    (["--networks", "preact_resnet110"], "original residual network"),
    (["--mode", "sleeping"], "no mode is called 'sleeping'"),
    (["--sides", "ours_folded", "--mode", "training"], "ours_folded has no training"),
    (["--networks", "resnet20,"], "separated by commas"),
    (["--dtype", "float16"], "float16"),
    (["--rounds", "0"], "positive integer"),
    (["--config.batch_size=4"], "--config.batch_size"),
    (["--sides", "ours", "--networks", "resnet18", "--image-size", "9"], "9"),
  ],
)
def test_a_mistake_costs_a_short_message_and_exit_code_2(arguments, word, call_here):
  status, output, error = call_here("benchmark", "peers", *arguments, "--json-only")
  assert (status, output) == (2, "")
  assert word in error
  assert len(error.splitlines()) < 25


@pytest.mark.long
@needs_torch
def test_torch_compile_is_measured_where_it_is_asked_for(call_here):
  arguments = (*TINY, *SHORT, "--sides", "torch,torch_compile", "--dtype", "bfloat16")
  status, output, _ = call_here("benchmark", "peers", *arguments, "--mode", "training")
  assert status == 0
  (result,) = json.loads(output.splitlines()[-1])["results"]
  assert list(result["sides"]) == ["torch", "torch_compile"]
