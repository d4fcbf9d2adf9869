"""The command `convert`, of every source, against the same network written in NumPy.

None of the other libraries is needed. Classifiers are square, so that shapes do not show whether
they were transposed; variances are small, so that logits show which epsilon is added.
"""

import dataclasses
import json

import numpy as np
import plain_networks
import pytest
from plain_networks import BOTTLENECK, Plain
from safetensors.numpy import save_file

import resnet_jax
from resnet_jax import weights
from resnet_jax.errors import UserError
from resnet_jax.weights import convert

TORCHVISION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 255.0}
TIMM_CONFIG = {
  "architecture": "resnet18",
  "pretrained_cfg": {
    "input_size": [3, 160, 160],
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.5, 0.75],
  },
  "label_names": [f"kind {i}" for i in range(8)],
}
PROCESSOR = {
  "crop_pct": 0.875,
  "image_mean": [0.5, 0.4, 0.3],
  "image_std": [0.25, 0.5, 0.75],
  "resample": 3,
  "size": {"shortest_edge": 224},
}
HUGGING = {"id2label": {str(i): f"kind {i}" for i in range(16)}}


@dataclasses.dataclass(frozen=True)
class Case:
  """A network of a library, which of ours it is, and what is known of it after the conversion."""

  plain: Plain
  name: str
  fields: dict
  preprocessing: dict
  class_names: tuple[str, ...] | None = None
  settings: dict = dataclasses.field(default_factory=dict)


OURS = {"size": 160, "resize": 168, "interpolation": "bicubic"}
KINDS = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 0.75), "scale": 255.0}
CASES = {
  "torchvision": Case(
    Plain("torchvision"),
    "resnet18",
    {"pool_padding": (1, 1), "conv_padding": "symmetric", "bn_epsilon": 1e-5, "num_classes": 8},
    {**TORCHVISION, "size": 224, "resize": 256, "interpolation": "bilinear"},
  ),
  "torchvision bottleneck": Case(
    Plain("torchvision", BOTTLENECK, 2),
    "resnet50",
    {"stride_in": "3x3"},
    {**TORCHVISION, "size": 224, "resize": 256, "interpolation": "bilinear"},
  ),
  "timm": Case(
    Plain("timm", squeezes=True),
    "resnet18",
    {"squeeze_excitation": 4, "num_classes": 8},
    {**KINDS, **OURS},
    tuple(TIMM_CONFIG["label_names"]),
    {"config.json": TIMM_CONFIG},
  ),
  "timm d": Case(
    Plain("timm", BOTTLENECK, 4, deep=True),
    "resnet50",
    {"stem": "deep", "projection": "pool_conv", "num_classes": 32},
    {**KINDS, **OURS},
    None,
    {"config.json": {k: v for k, v in TIMM_CONFIG.items() if k != "label_names"}},
  ),
  "transformers": Case(
    Plain("transformers", BOTTLENECK, 2),
    "resnet50",
    {"stride_in": "3x3"},
    {**KINDS, "size": 224, "resize": 256, "interpolation": "bicubic"},
    tuple(HUGGING["id2label"].values()),
    {"config.json": HUGGING, "preprocessor_config.json": PROCESSOR},
  ),
  "transformers, paper's strides": Case(
    Plain("transformers", BOTTLENECK, 2, strides=1),
    "resnet50",
    {"stride_in": "1x1"},
    {**KINDS, "size": 224, "resize": 224, "interpolation": "bilinear"},
    None,
    {
      "config.json": {"downsample_in_bottleneck": True, "id2label": {"0": "LABEL_0"}},
      "preprocessor_config.json": {**PROCESSOR, "resample": 2, "size": 224, "crop_pct": 1.0},
    },
  ),
  "akamaster": Case(
    Plain("akamaster", projects=False),
    "resnet20",
    {"shortcut": "A", "num_classes": 16},
    {**TORCHVISION, "size": 32},
  ),
  "akamaster, projecting": Case(
    Plain("akamaster"),
    "resnet20",
    {"shortcut": "B"},
    {**TORCHVISION, "size": 32},
  ),
  "keras": Case(
    Plain("keras", BOTTLENECK, 2, strides=1),
    "resnet50",
    {"stride_in": "1x1", "bn_epsilon": 1.001e-5, "num_classes": 16},
    {"mean": (103.939, 116.779, 123.68), "channels": "BGR", "size": 224, "resize": 256},
  ),
}


def write(case: Case, folder, arrays):
  """The file, or folder, as the library has it."""
  folder.mkdir()
  if case.plain.source == "keras":
    stored = {f"{n.split('/')[0]}/{n}:0": array for n, array in arrays.items()}
    np.savez(folder / "net.npz", **stored)
    return folder / "net.npz"
  save_file(arrays, folder / "model.safetensors")
  for name, content in case.settings.items():
    (folder / name).write_text(json.dumps(content))
  return folder if case.settings else folder / "model.safetensors"


def overrides(case: Case) -> dict:
  return {"width": case.plain.width, "stage_sizes": case.plain.sizes}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_source_gives_the_logits_of_its_own_code_and_says_what_is_known(
  case, tmp_path, call_here
):
  classes = case.plain.features
  arrays = plain_networks.random_arrays(case.plain, classes)
  file = write(case, tmp_path / "theirs", arrays)
  status, out, err = call_here(
    "convert", "--source", case.plain.source, "--input", file, "--model", case.name,
    "--output", tmp_path / "ours", f"--config.model.width={case.plain.width}",
    "--config.model.stage_sizes", *case.plain.sizes,
  )  # fmt: skip
  assert status == 0, err
  model, variables, preprocessing = resnet_jax.create(case.name, weights=tmp_path / "ours")
  images = np.random.default_rng(1).normal(size=(2, 37, 42, 3)).astype(np.float32)
  want = plain_networks.logits(case.plain, arrays, images)
  found = model.apply(variables, images)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
  # The epsilon shows, and the transposed classifier would.
  assert np.abs(want).std() > 0.1
  info = weights.load_weights(tmp_path / "ours")[2]
  known = {name: info.model.overrides[name] for name in case.fields}
  assert json.dumps(known) == json.dumps(case.fields)
  default = weights.Preprocessing(mean=case.preprocessing["mean"])
  assert preprocessing == dataclasses.replace(default, **case.preprocessing)
  assert (info.source, info.file) == (case.plain.source, file.name)
  assert info.class_names == case.class_names
  assert ("its classes have no names" in out) is (case.class_names is None)
  assert (info.class_offset, info.top1) == (0, None)


def changed(arrays, name, kind):
  match kind:
    case "missing":
      return {n: array for n, array in arrays.items() if n != name}
    case "left over":
      return {**arrays, "another.weight": arrays[name]}
    case "of another shape":
      return {**arrays, name: np.concatenate([arrays[name], arrays[name]])}
  return {**arrays, name: arrays[name].astype(np.int32)}


@pytest.mark.parametrize("source", ["torchvision", "timm", "transformers", "akamaster", "keras"])
def test_an_array_too_few_or_too_many_or_of_another_shape_is_named(source, tmp_path):
  case = CASES[source]
  arrays = plain_networks.random_arrays(case.plain, case.plain.features)
  inner, last = "running_var", f"{case.plain.head}.bias"
  if source == "keras":
    inner, last = "moving_variance", last.replace(".", "/")
  joint = "/" if source == "keras" else "."
  inner = f"{case.plain.names(2, 2, 'norm2')}{joint}{inner}"
  for kind, name, word in (
    ("missing", inner, inner),
    ("of another shape", inner, inner),
    # It says how many classes there are, so it is the kernel that does not fit.
    ("of another shape", last, case.plain.head),
    ("left over", inner, "another.weight"),
    ("of int32", last, last),
  ):
    path = write(case, tmp_path / f"{kind} {len(name)}", changed(arrays, name, kind))
    with pytest.raises(UserError, match=f"is not of {case.name}: .*{kind}") as error:
      convert(source, path, case.name, overrides(case))
    assert word in str(error.value)


def test_classes_are_named_by_the_command_or_by_their_number(tmp_path, call_here):
  case = CASES["torchvision"]
  path = write(case, tmp_path / "theirs", plain_networks.random_arrays(case.plain, 8))
  (tmp_path / "names.txt").write_text("\n".join("abcdef") + "\n\n")
  base = (
    "convert", "--source", "torchvision", "--input", path, "--model", "resnet18",
    "--config.model.width=4", "--config.model.stage_sizes", 1, 2, "--output",
  )  # fmt: skip
  named = ("--class-names", tmp_path / "names.txt")
  status, _, err = call_here(*base, tmp_path / "wrong", *named, "--class-offset", "1")
  assert (status, "6 class names and an offset of 1 for 8 outputs" in err) == (2, True)
  assert not (tmp_path / "wrong").exists()
  status, _, err = call_here(*base, tmp_path / "ours", *named, "--class-offset", "2")
  assert status == 0, err
  info = weights.load_weights(tmp_path / "ours")[2]
  assert (info.class_names, info.class_offset) == (tuple("abcdef"), 2)


@pytest.mark.parametrize(
  ("name", "classes", "first"),
  [
    ("akamaster", 10, "airplane"),
    ("keras", 1000, "tench, Tinca tinca"),
    ("timm d", 1000, "tench, Tinca tinca"),
  ],
)
def test_the_classes_of_cifar_and_imagenet_have_their_names(name, classes, first, tmp_path):
  case = CASES[name]
  if name == "timm d":
    config = case.settings["config.json"] | {"num_classes": 1000}
    case = dataclasses.replace(case, settings={"config.json": config})
  arrays = plain_networks.random_arrays(case.plain, classes)
  path = write(case, tmp_path / "theirs", arrays)
  _, info = convert(case.plain.source, path, case.name, overrides(case))
  assert len(info.class_names) == classes
  assert info.class_names[0] == first


def test_what_the_command_is_told_of_the_network_wins_over_what_the_weights_say(tmp_path):
  case = CASES["torchvision bottleneck"]
  arrays = plain_networks.random_arrays(case.plain, 16)
  path = write(case, tmp_path / "theirs", arrays)
  variables, info = convert("torchvision", path, "resnet50", overrides(case) | {"stride_in": "1x1"})
  images = np.random.default_rng(1).normal(size=(2, 37, 42, 3)).astype(np.float32)
  want = plain_networks.logits(dataclasses.replace(case.plain, strides=1), arrays, images)
  found = info.create().apply(variables, images)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
