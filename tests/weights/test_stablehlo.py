"""Exported networks: one program that is the network, anywhere, or is refused."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export
from tiny import TINY, tiny

from resnet_jax import models
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.weights import (
  Preprocessing,
  WeightsInfo,
  export_network,
  is_export,
  load_export,
  save_export,
  save_weights,
  without_offset,
)

PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), 255.0, size=64, resize=72)
NAMES = tuple("abcde")


def pixels(count, size=64, channels=3):
  generator = np.random.default_rng(count)
  return generator.integers(256, size=(count, size, size, channels)).astype(np.uint8)


def logits(model, variables, images, preprocessing=PREPROCESSING):
  """The network's own, compiled with its weights as constants, as in the program."""

  def apply(images):
    x = images if preprocessing is None else preprocessing(images)
    return model.apply(variables, x, train=False)

  return np.asarray(jax.jit(apply)(images))


def computed(exported, images):
  """What a program gives that was not stored."""
  return np.asarray(jax.jit(exported.call)(images))


def assert_same(found, expected):
  """Equal to the last bit."""
  np.testing.assert_array_equal(found, expected, strict=True)


def assert_close(found, expected, rtol):
  """Equal to a part of the largest logit."""
  np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  """An exported bottleneck network, which has both paths that differ by platform."""
  model, variables = tiny("resnet50", stage_sizes=(1, 1))
  directory = tmp_path_factory.mktemp("exported") / "network"
  save_export(
    directory, model, variables, PREPROCESSING, NAMES, name="resnet50", source="of chance"
  )
  return directory, model, variables


@pytest.fixture
def copied(stored, tmp_path):
  """A copy to be damaged."""
  directory = tmp_path / "network"
  directory.mkdir()
  for path in stored[0].iterdir():
    (directory / path.name).write_bytes(path.read_bytes())
  return directory


def test_the_program_gives_the_network_s_logits_for_any_number_of_pictures(stored):
  directory, model, variables = stored
  call, info = load_export(directory)
  for count in (1, 3):
    images = pixels(count)
    found = np.asarray(call(images))
    assert_same(found, logits(model, variables, images))
    # With weights as arguments XLA folds less, which rounds otherwise.
    apply = jax.jit(lambda v, images: model.apply(v, PREPROCESSING(images), train=False))
    assert_close(found, apply(variables, images), 1e-6)
  assert is_export(directory)
  assert not is_export(directory.parent)
  assert (info.model, info.source, info.class_names) == ("resnet50", "of chance", NAMES)
  assert info.preprocessing == PREPROCESSING
  assert (info.input, info.input_shape, info.input_dtype) == ("pixels", (64, 64, 3), "uint8")
  assert (info.outputs, info.platforms) == (5, ("cpu", "cuda", "tpu"))
  assert info.jax_version == jax.__version__
  assert {path.name for path in directory.iterdir()} == {"export.json", "network.stablehlo"}


ALONE = """
import sys
sys.modules["resnet_jax"] = None  # whoever imports it gets an ImportError
import jax, numpy as np
with open("network/network.stablehlo", "rb") as file:
  network = jax.export.deserialize(bytearray(file.read()))
np.save("logits.npy", network.call(np.load("pixels.npy")))
print(network.platforms, network.in_avals, network.out_avals)
assert "flax" not in sys.modules
"""


def test_the_program_runs_without_this_package(stored, copied, tmp_path):
  images = pixels(3)
  np.save(tmp_path / "pixels.npy", images)
  done = subprocess.run(
    [sys.executable, "-I", "-c", ALONE],
    cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout == (
    "('cpu', 'cuda', 'tpu') (ShapedArray(uint8[batch,64,64,3]),) (ShapedArray(float32[batch,5]),)\n"
  )
  _, model, variables = stored
  assert_same(np.load(tmp_path / "logits.npy"), logits(model, variables, images))


@pytest.mark.parametrize(
  ("name", "fields"),
  [
    ("resnet50", {"stage_sizes": (1, 3), "scan": True, "remat": True}),
    (
      "resnet18",
      {
        "stage_sizes": (1, 1),
        "stem": "deep",
        "projection": "pool_conv",
        "squeeze_excitation": 2,
      },
    ),
    ("resnet20", {"stage_sizes": (1, 2), "pool_padding": (0, 1)}),
    ("preact_resnet164", {"stage_sizes": (1, 1), "pool_padding": (0, 1)}),
    ("plain18", {"stage_sizes": (1, 1)}),
  ],
)
def test_every_kind_of_network_is_exported(name, fields):
  model, variables = tiny(name, **fields)
  exported = export_network(model, variables, (64, 64, 3), PREPROCESSING)
  assert "while" not in exported.mlir_module()
  images = pixels(2)
  found = computed(exported, images)
  unrolled = model.clone(scan=False, remat=False)
  assert_same(found, logits(unrolled, models.to_unrolled(variables), images))
  assert_close(found, logits(model, variables, images), 1e-6)


def test_vgg_is_exported():
  model = models.create("vgg16", stage_sizes=(1, 1), width=4, hidden_features=(8,), num_classes=5)
  variables = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  exported = export_network(model, variables, (16, 16, 3), PREPROCESSING)
  images = pixels(2, 16)
  assert_same(computed(exported, images), logits(model, variables, images))
  with pytest.raises(UserError, match=r"hidden1/kernel is \(128, 8\), not \(512, 8\)"):
    export_network(model, variables, (32, 32, 3))


@pytest.mark.parametrize("fields", [{}, {"param_dtype": "bfloat16"}])
def test_a_network_in_bfloat16_gives_float32_logits(fields):
  model, variables = tiny("resnet50", stage_sizes=(1, 1), dtype="bfloat16", **fields)
  exported = export_network(model, variables, (64, 64, 3), PREPROCESSING)
  assert "xbf16>" in exported.mlir_module()
  images = pixels(3)
  assert_same(computed(exported, images), logits(model, variables, images))


def operations(exported):
  """How often a program has the operations that the paths by platform differ in."""
  text = exported.mlir_module()
  names = ("convolution", "dot_general", "reduce_window", "gather")
  return [len(re.findall(rf"stablehlo\.(?:dynamic_)?{name}\b", text)) for name in names]


def test_each_platform_has_its_own_path_and_all_are_the_same_function():
  model, variables = tiny("resnet50", stage_sizes=(1, 1))
  found = {
    platforms: export_network(model, variables, (64, 64, 3), PREPROCESSING, platforms)
    for platforms in (("cpu",), ("cuda",), ("tpu",), ("cpu", "cuda", "tpu"))
  }
  cpu, cuda, tpu, every = map(operations, found.values())
  # 1 + 2 x 4 convolutions, of which 3 are not of 1x1, and the classifier.
  assert cpu == [3, 7, 0, 0]
  assert cuda == tpu == [9, 1, 1, 0]
  assert every[0] >= 9
  assert every[1] >= 7
  assert every[2:] == [1, 0]
  images = pixels(2)
  expected = logits(model, variables, images)
  for exported in found.values():
    # What is for accelerators alone can be computed here too: it is the same StableHLO.
    anywhere = dataclasses.replace(
      exported, disabled_safety_checks=(export.DisabledSafetyCheck.platform(),)
    )
    assert_close(computed(anywhere, images), expected, 1e-5)


def test_weights_are_in_the_program_once():
  model, variables = tiny("resnet50", width=32)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
  exported = export_network(model, variables, (64, 64, 3))
  assert size < len(exported.serialize()) < 1.1 * size + 100_000


def test_exporting_leaves_the_network_s_own_programs_as_they_are():
  model, variables = tiny("resnet50", stage_sizes=(1, 1))
  images = np.zeros((1, 64, 64, 3), np.float32)
  before = str(jax.make_jaxpr(model.apply)(variables, images))
  export_network(model, variables, (64, 64, 3))
  assert str(jax.make_jaxpr(model.apply)(variables, images)) == before
  assert "platform_index" not in before


@pytest.mark.parametrize("preprocessing", [None, PREPROCESSING])
def test_a_normalized_program_takes_what_the_network_does(tmp_path, preprocessing):
  model, variables = tiny()
  directory = tmp_path / "network"
  save_export(
    directory, model, variables, preprocessing, None, image_shape=(40, 48, 3), normalized=True
  )
  call, info = load_export(directory)
  assert (info.input, info.input_dtype, info.preprocessing) == (
    "normalized", "float32", preprocessing,
  )  # fmt: skip
  images = np.random.default_rng(0).normal(size=(2, 40, 48, 3)).astype(np.float32)
  assert_same(np.asarray(call(images)), logits(model, variables, images, None))


def test_images_of_one_channel_are_found_to_be_so(tmp_path):
  model = models.create("resnet20", stage_sizes=(1,), width=4)
  variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
  gray = Preprocessing((4.0,), (2.0,), size=8)
  assert save_export(tmp_path / "n", model, variables, gray, None).input_shape == (8, 8, 1)
  with pytest.raises(UserError, match="has 3 channels: the kernel of stem/conv takes 1"):
    save_export(tmp_path / "o", model, variables, PREPROCESSING, None)


@pytest.mark.parametrize(
  "images",
  [
    pixels(2, 32),
    pixels(2)[..., :1],
    pixels(2)[0],
    pixels(0),
    pixels(2).astype(np.float32),
    np.float32(1),
  ],
)
def test_other_images_are_refused_with_what_is_taken(stored, images):
  call, _ = load_export(stored[0])
  shape = ",".join(map(str, images.shape))
  with pytest.raises(ValueError, match=re.escape(f"images of {images.dtype}[{shape}]: ")) as raised:
    call(images)
  assert str(raised.value).endswith(
    "this program takes uint8[batch,64,64,3], pixels, RGB from 0 to 255"
  )


@pytest.mark.parametrize(
  "damage", [lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda c: b"", lambda c: flip(c, 5000)]
)
def test_a_damaged_program_is_refused_unread(copied, monkeypatch, damage):
  path = copied / "network.stablehlo"
  path.write_bytes(damage(path.read_bytes()))
  monkeypatch.setattr(export, "deserialize", None)  # calling it would be a TypeError
  with pytest.raises(UserError, match=r"network\.stablehlo is damaged.*; export the network again"):
    load_export(copied)


def flip(content, position):
  changed = bytearray(content)
  changed[position] ^= 1
  return bytes(changed)


@pytest.mark.parametrize("content", [b"", b"no program", bytes(1000)])
def test_what_never_was_a_program_is_refused(copied, content):
  (copied / "network.stablehlo").write_bytes(content)
  change(copied, sha256=hashlib.sha256(content).hexdigest())
  with pytest.raises(UserError, match="is no program of a network: ") as raised:
    load_export(copied)
  assert "\n" not in str(raised.value)


def change(directory, **values):
  path = directory / "export.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"format": 2}, "is of format 2; this version reads 1"),
    ({"outputs": "many"}, "is not as it was written: .*outputs"),
    ({"input": "jpeg"}, "is not as it was written: "),
    ({"outputs": 6}, r"is not the program that export\.json describes"),
    ({"input_shape": [32, 32, 3]}, r"is not the program that export\.json describes"),
    ({"calling_convention_version": 99}, r"calling convention 99 .* reads \d+ to \d+: export"),
    ({"calling_convention_version": 1}, r"calling convention 1 of jax\.export, by jax"),
    ({"platforms": ["cuda", "tpu"]}, "is for cuda, tpu, not for cpu: .*JAX_PLATFORMS"),
  ],
)
def test_a_program_that_cannot_be_run_here_is_refused(copied, values, message):
  change(copied, **values)
  with pytest.raises(UserError, match=message):
    load_export(copied)


def test_directories_without_a_program_are_refused(copied, tmp_path):
  with pytest.raises(UserError, match=r"is no exported network: it has no export\.json"):
    load_export(tmp_path)
  (copied / "network.stablehlo").unlink()
  with pytest.raises(UserError, match=r"network\.stablehlo cannot be read: No such file"):
    load_export(copied)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"class_names": NAMES[1:]}, "4 class names for 5 outputs"),
    ({"platforms": ("gpu",)}, r"platforms=\('gpu',\): known are cpu, cuda, tpu, rocm"),
    ({"platforms": ()}, "known are cpu"),
    ({"image_shape": (16, 16, 3)}, "at least 32x32 are needed"),
    ({"image_shape": (64, 64, 1)}, r"stem/conv/kernel is \(7, 7, 3, 4\), not \(7, 7, 1, 4\)"),
    ({"preprocessing": None}, "the size of the images is not known"),
    ({"preprocessing": Preprocessing((0.0,))}, "the size of the images is not known"),
  ],
)
def test_what_does_not_fit_is_not_exported(tmp_path, arguments, message):
  model, variables = tiny()
  settings = {"preprocessing": PREPROCESSING, "class_names": NAMES} | arguments
  with pytest.raises(UserError, match=message):
    save_export(tmp_path / "network", model, variables, **settings)
  assert not any(tmp_path.iterdir())


def test_variables_that_are_not_the_network_s_are_not_exported(tmp_path):
  model, variables = tiny()
  for others, message in (
    ({"params": variables["params"]}, "missing: batch_stats/"),
    (tiny(num_classes=7)[1], r"params/head/kernel is \(32, 7\), not \(32, 5\)"),
    (tiny(use_bias=True)[1], "left over: params/"),
  ):
    with pytest.raises(UserError, match=message):
      save_export(tmp_path / "network", model, others, PREPROCESSING, None)
  with pytest.raises(UserError, match="head='none': the network has no logits"):
    export_network(*tiny(head="none"), (64, 64, 3))
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is there already"):
    save_export(tmp_path, model, variables, PREPROCESSING, None)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def full(path, content):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("resnet_jax.run.files.write_whole", full)
  with pytest.raises(OSError, match="No space"):
    save_export(tmp_path / "network", *tiny(), PREPROCESSING, None)
  assert not any(tmp_path.iterdir())


@pytest.fixture
def offset(tmp_path):
  """A directory of weights whose first output is no class."""
  model, variables = tiny()
  info = WeightsInfo(
    ModelConfig("resnet18", TINY), "torchvision", "", None, PREPROCESSING, tuple("bcde"), 1
  )
  return model, variables, save_weights(tmp_path / "weights", variables, info)


def test_without_the_offset_output_i_is_class_i(offset):
  model, variables, info = offset
  smaller, others = without_offset(model, variables, info)
  assert smaller.num_classes == 4
  images = pixels(2)
  expected = logits(model, variables, images)[:, 1:]
  np.testing.assert_allclose(logits(smaller, others, images), expected, rtol=1e-6)
  assert variables["params"]["head"]["bias"].shape == (5,)
  none = dataclasses.replace(info, class_offset=0)
  assert without_offset(model, variables, none) == (model, variables)
  for wrong in (5, -1):
    with pytest.raises(UserError, match=f"class_offset={wrong} of a network with 5 outputs"):
      without_offset(model, variables, dataclasses.replace(info, class_offset=wrong))


def test_the_command_writes_converted_weights_as_a_program(offset, tmp_path, call_here):
  model, variables, _ = offset
  out = ("--format", "stablehlo", "--output")
  command = ("convert", "--weights", tmp_path / "weights", *out, tmp_path / "network")
  status, printed, err = call_here(*command)
  assert status == 0, err
  assert printed == (
    f"{tmp_path / 'network'}: {tmp_path / 'weights'} (torchvision resnet18); takes uint8 "
    "(N, 64, 64, 3), pixels; gives 4 logits; for cpu, cuda, tpu\n"
  )
  call, info = load_export(tmp_path / "network")
  assert (info.model, info.class_names, info.outputs) == ("resnet18", tuple("bcde"), 4)
  images = pixels(2)
  assert_same(np.asarray(call(images)), logits(model, variables, images)[:, 1:])
  assert b".py" not in (tmp_path / "network" / "network.stablehlo").read_bytes()
  status, _, err = call_here(*command)
  assert status == 2
  assert "is there already" in err
  status, printed, err = call_here(
    *command[:-1], tmp_path / "other", "--normalized", "--image-size", 40
  )
  assert status == 0, err
  assert "takes float32 (N, 40, 40, 3), normalised as for the network; gives 4" in printed


def test_the_command_asks_for_the_size_where_it_is_not_known(tmp_path, call_here):
  info = WeightsInfo(ModelConfig("resnet18", TINY), "keras")
  save_weights(tmp_path / "weights", tiny()[1], info)
  command = ("convert", "--weights", tmp_path / "weights", "--output", tmp_path / "network")
  for more, message in (
    (("--format", "stablehlo"), "expect of pictures is not known"),
    (("--format", "stablehlo", "--normalized"), "the size of the images is not known"),
    (("--format", "torchvision", "--image-size", 64), "are of --format stablehlo"),
    (("--format", "stablehlo", "--image-size", 0), "'0' is not a positive integer"),
  ):
    status, printed, err = call_here(*command, *more)
    assert (status, printed) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "network").exists()
  sized = ("--format", "stablehlo", "--normalized", "--image-size", 64)
  status, printed, err = call_here(*command, *sized)
  assert status == 0, err
  assert load_export(tmp_path / "network")[1].input == "normalized"
