"""Converted weights on the command line: measured, fine-tuned, predicting; runs that predict."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

from resnet_jax import models, weights
from resnet_jax.data import DataConfig, StreamingConfig, sources
from resnet_jax.data.prepare import prepare
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.config import load_config
from resnet_jax.run.workdir import check_claim, claim, read_config
from resnet_jax.training import Config, build_run, fit
from resnet_jax.training.config import with_data_dir
from resnet_jax.training.parameter_names import matching
from resnet_jax.training.restore import restore_variables
from resnet_jax.training.stored_preprocessing import find_preprocessing
from resnet_jax.weights import imagenet

FIELDS = {"stage_sizes": (1, 1), "width": 4, "num_classes": 3, "conv_padding": "symmetric"}
EXPECTED = weights.Preprocessing(
  (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 255.0, size=16, resize=20, interpolation="bicubic"
)
COLOURS = {"blue": (30, 40, 200), "green": (40, 180, 50), "red": (190, 30, 60)}


def paint(path, colour, seed, size=(24, 31)):
  noise = np.random.default_rng(seed).normal(0, 30, (*size, 3))
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Pictures of three colours that nothing was prepared for."""
  root = tmp_path_factory.mktemp("pictures")
  for name, colour in COLOURS.items():
    for i in range(12):
      paint(root / "train" / name / f"{i}.png", colour, i)
    for i in range(4):
      paint(root / "val" / name / f"{i}.png", colour, 100 + i, (20 + 3 * i, 28))
  return root


def made_weights(directory, preprocessing=EXPECTED, class_names=tuple(COLOURS)):
  info = weights.WeightsInfo(
    ModelConfig("resnet20", FIELDS),
    "torchvision",
    "made.pth",
    preprocessing=preprocessing,
    class_names=class_names,
  )
  model = info.create()
  variables = jax.jit(model.init)(jax.random.key(1), np.zeros((1, 16, 16, 3), np.float32))
  head = jax.tree.map(lambda leaf: leaf * 3, variables["params"]["head"])
  variables = {**variables, "params": {**variables["params"], "head": head}}
  weights.save_weights(directory, variables, info)
  return directory


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  return made_weights(tmp_path_factory.mktemp("weights") / "net")


def by_hand(directory, files):
  """Logits of the public functions and Pillow's resizing."""
  model, variables, preprocess = resnet_create(directory)
  crops = []
  for file in files:
    with PIL.Image.open(file) as image:
      scale = 20 / min(image.size)
      size = [int(side * scale + 0.5) for side in image.size]
      resized = image.resize(size, PIL.Image.Resampling.BICUBIC)
    left, top = ((side - 16) // 2 for side in size)
    crops.append(np.asarray(resized.crop((left, top, left + 16, top + 16))))
  return np.asarray(model.apply(variables, preprocess(np.stack(crops))))


def resnet_create(directory):
  model, variables, info = weights.load_weights(directory)
  return model, variables, info.preprocessing


def object_of(call_here, *arguments, status=0):
  found, out, err = call_here(*arguments, "--json")
  assert found == status, err
  assert len(out.splitlines()) == 1
  return json.loads(out)


def validation_files(folder):
  return sorted((folder / "val").rglob("*.png"))


def evaluate(call_here, directory, folder, *more):
  on = ("--dataset", "folder", "--data-dir", folder)
  return object_of(call_here, "evaluate", "--weights", directory, *on, *more)


def test_weights_are_measured_on_pictures_shown_as_they_expect(converted, folder, call_here):
  files = validation_files(folder)
  logits = by_hand(converted, files)
  labels = [list(COLOURS).index(file.parent.name) for file in files]
  errors = int((logits.argmax(-1) != labels).sum())
  found = evaluate(call_here, converted, folder)
  assert found["examples"] == 12
  assert found["top1"]["errors"] == errors
  log_softmax = jax.nn.log_softmax(logits)
  want = -float(np.mean(np.asarray(log_softmax)[np.arange(12), labels]))
  assert found["loss"] == pytest.approx(want, rel=2e-3)
  (member,) = found["members"]
  assert (member["source"], member["file"], member["class_offset"]) == (
    "torchvision",
    "made.pth",
    0,
  )
  assert member["protocol"]["short_sides"] == [20] and member["protocol"]["crop"] == 16
  again = evaluate(call_here, converted, folder, "--batch-size", "5")
  assert again["top1"] == found["top1"]
  assert again["loss"] == pytest.approx(found["loss"], rel=1e-6)


def test_it_is_said_which_weights_were_measured(converted, folder, call_here):
  status, out, err = call_here(
    "evaluate", "--weights", converted, "--dataset", "folder", "--data-dir", folder,
    "--protocol", "ten_crop", "--weights", converted,
  )  # fmt: skip
  assert status == 0, err
  lines = out.splitlines()
  assert lines[0] == f"resnet20 of {converted} on the validation split of folder"
  assert lines[1].startswith("weights: torchvision made.pth, SHA-256 ")
  assert lines[2] == "protocol: ten_crop (ten crops of 16; short side 20)"
  assert "ensemble: the mean of the softmax scores of 2 networks" in lines
  assert lines[-1].startswith("validation accuracy: ")


@pytest.mark.parametrize(
  ("made", "words"),
  [
    ({"preprocessing": None}, "expect of pictures is not known"),
    (
      {"preprocessing": dataclasses.replace(EXPECTED, mean=(0.5,), std=(1.0,))},
      "data.mean, or that of the weights, has 1 numbers, and the pictures of folder have 3 channel",
    ),
  ],
)
def test_weights_that_cannot_be_measured_are_refused(tmp_path, folder, call_here, made, words):
  directory = made_weights(tmp_path / "net", **made)
  arguments = ("evaluate", "--weights", directory, "--dataset", "folder", "--data-dir", folder)
  status, out, err = call_here(*arguments)
  assert (status, out) == (2, "")
  assert words in err and "Traceback" not in err


def test_labels_follow_from_the_names_of_folders_where_the_weights_have_them(
  tmp_path, folder, call_here
):
  """In another order than that of their names, without a `train`, and with a class missing."""
  shutil.copytree(folder / "val", tmp_path / "data" / "val")
  shutil.rmtree(tmp_path / "data" / "val" / "green")
  directory = made_weights(tmp_path / "net", class_names=("red", "green", "blue"))
  files = validation_files(tmp_path / "data")
  labels = [("red", "green", "blue").index(file.parent.name) for file in files]
  found = evaluate(call_here, directory, tmp_path / "data")
  assert found["examples"] == len(files) == 8
  assert found["top1"]["errors"] == (by_hand(directory, files).argmax(-1) != labels).sum()
  unnamed = made_weights(tmp_path / "unnamed", class_names=None)
  arguments = ("--dataset", "folder", "--data-dir", tmp_path / "data")
  status, _, err = call_here("evaluate", "--weights", unnamed, *arguments)
  assert status == 2
  assert "holds no folder train" in err


def test_folders_of_imagenet_are_called_by_the_numbers_of_its_classes(tmp_path, call_here):
  names = imagenet.imagenet_class_names()
  synsets = imagenet.imagenet_synsets()
  fields = FIELDS | {"num_classes": 1000}
  info = weights.WeightsInfo(
    ModelConfig("resnet20", fields), "timm", preprocessing=EXPECTED, class_names=names
  )
  variables = info.create().init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  variables["params"]["head"]["bias"] = np.zeros(1000, np.float32)
  variables["params"]["head"]["bias"][7] = 1e3
  weights.save_weights(tmp_path / "net", variables, info)
  for label in (7, 900):
    paint(tmp_path / "data" / "val" / synsets[label] / "0.png", 128, label)
  found = evaluate(call_here, tmp_path / "net", tmp_path / "data", "--per-class")
  assert found["top1"]["errors"] == 1
  seen = [(each["class"], each["top1"]["errors"]) for each in found["classes"] if each["examples"]]
  assert seen == [(synsets[7], 0), (synsets[900], 1)]


def test_classes_in_another_order_are_refused(tmp_path, call_here):
  names = tuple(f"class {label}" for label in range(10))
  fields = FIELDS | {"num_classes": 10}
  for order in (1, -1):
    info = weights.WeightsInfo(
      ModelConfig("resnet20", fields), "timm", preprocessing=EXPECTED, class_names=names[::order]
    )
    variables = info.create().init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    directory = tmp_path / f"net{order}"
    weights.save_weights(directory, variables, info)
    status, _, err = call_here("evaluate", "--weights", directory, "--dataset", "synthetic")
    assert status == (0 if order == 1 else 2), err
  assert "have the classes of synthetic in another order (class 9, class 8" in err


def test_a_class_count_that_does_not_match_is_named(tmp_path, converted, call_here):
  for part in ("train", "val"):
    for name in ("cat", "dog"):
      paint(tmp_path / part / name / "0.png", 128, 0)
  arguments = ("--dataset", "folder", "--data-dir", tmp_path)
  status, _, err = call_here("evaluate", "--weights", converted, *arguments)
  assert status == 2
  assert "have 3 outputs, and folder has 2 classes: choose the data set that they were" in err
  assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "give --workdir or --weights"),
    (("--weights", "w"), "--weights and --dataset are given together"),
    (("--workdir", "w", "--dataset", "digits"), "--weights and --dataset are given together"),
    (("--weights", "absent", "--dataset", "digits"), "absent is no directory of weights"),
    (("--weights", "w", "--dataset", "digits", "--ema"), "belong to --workdir"),
  ],
)
def test_arguments_that_contradict_each_other_are_refused(call_here, arguments, words):
  status, out, err = call_here("evaluate", *arguments)
  assert (status, out) == (2, "")
  assert words in err


@pytest.fixture(scope="module")
def tuned(folder, converted, tmp_path_factory):
  """A run that went on from the weights."""
  config = dataclasses.replace(
    load_config(f"finetune:{converted}", Config), batch_size=12, length="8 epochs"
  )
  config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, data_dir=str(folder)), ema_decay=0.5
  )
  workdir = tmp_path_factory.mktemp("tuned")
  claim(workdir, config, ())
  fit(build_run(config), workdir)
  return workdir


def test_fine_tuning_follows_the_weights_and_learns(tuned, converted, call_here):
  config = json.loads((tuned / "config.json").read_text())
  assert config["data"]["mean"] == [0.4, 0.5, 0.6]
  assert config["data"]["streaming"]["interpolation"] == "bicubic"
  assert config["model"]["overrides"]["conv_padding"] == "symmetric"
  assert config["init_from"] == str(converted)
  found = object_of(call_here, "evaluate", "--workdir", tuned)
  assert found["accuracy"] > 0.9


def test_what_a_run_predicts_is_what_was_evaluated_without_its_data(
  tuned, folder, tmp_path, call_here
):
  files = validation_files(folder)
  labels = [list(COLOURS).index(file.parent.name) for file in files]
  for more in ((), ("--ema",)):
    found = object_of(call_here, "evaluate", "--workdir", tuned, *more)
    run = shutil.copytree(tuned, tmp_path / f"moved{len(more)}")
    config = json.loads((run / "config.json").read_text())
    config["data"]["data_dir"] = "nowhere"
    (run / "config.json").write_text(json.dumps(config))
    predictions = object_of(call_here, "predict", "--workdir", run, *more, *files)["predictions"]
    wrong = sum(one["top"][0]["index"] != label
                for one, label in zip(predictions, labels, strict=True))  # fmt: skip
    assert wrong == found["top1"]["errors"]
    scores = [
      next(each["score"] for each in one["top"] if each["index"] == label)
      for one, label in zip(predictions, labels, strict=True)
    ]
    assert -np.mean(np.log(scores)) == pytest.approx(found["loss"], rel=1e-3)


def test_predictions_are_printed_with_names_and_bad_files_named(tuned, folder, tmp_path, call_here):
  (tmp_path / "text.jpg").write_text("no picture")
  good = folder / "val" / "red" / "0.png"
  status, out, err = call_here(
    "predict", "--workdir", tuned, "--top", "2", good, tmp_path / "text.jpg", tmp_path / "absent"
  )
  assert status == 2
  lines = out.splitlines()
  assert lines[0] == str(good)
  assert lines[1].endswith("%  red") and len(lines) == 3
  errors = [line for line in err.splitlines() if line.startswith("resnet-jax: ")]
  assert errors[0].startswith(f"resnet-jax: {tmp_path / 'text.jpg'}: no whole picture (")
  assert errors[1] == f"resnet-jax: {tmp_path / 'absent'}: No such file or directory"
  found = object_of(call_here, "predict", "--workdir", tuned, good, tmp_path, status=2)
  assert [one["file"] for one in found["unreadable"]] == [str(tmp_path / "text.jpg")]
  assert len(found["predictions"]) == 1
  assert call_here("predict", "--workdir", tuned, tmp_path / "text.jpg")[0] == 2


def test_an_export_predicts_as_the_run_that_it_is_of(tuned, folder, tmp_path, call_here):
  network = ("--workdir", tuned)
  export = tmp_path / "export"
  status, _, err = call_here(
    "convert", "--weights", network[1], "--format", "stablehlo", "--output", export
  )
  assert status == 0, err
  direct = object_of(call_here, "predict", *network, folder / "val")["predictions"]
  exported = object_of(call_here, "predict", "--export", export, folder / "val")["predictions"]
  assert [one["file"] for one in exported] == [one["file"] for one in direct]
  for one, other in zip(exported, direct, strict=True):
    assert [each["class"] for each in one["top"]] == [each["class"] for each in other["top"]]
    np.testing.assert_allclose(
      [each["score"] for each in one["top"]],
      [each["score"] for each in other["top"]],
      rtol=1e-4,
    )


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--workdir", "absent"), "is not the directory of a run"),
    (("--workdir", ""), "--workdir: is empty"),
    (("--workdir", "absent", "--checkpoint", "newest"), "give last, best or the number of a step"),
    (("--workdir", "absent", ""), "IMAGE: is empty"),
    (("--weights", "absent"), "absent is no directory of weights"),
    (("--weights", ""), "--weights: is empty"),
    (("--export", "absent"), "absent is no exported network"),
    (("--weights", "absent", "--ema"), "belong to --workdir"),
  ],
)
def test_a_network_that_is_not_there_is_named(arguments, words, tmp_path, call_here, monkeypatch):
  monkeypatch.chdir(tmp_path)
  status, out, err = call_here("predict", *arguments, "a.jpg")
  assert (status, out) == (2, "")
  assert words in err and "Traceback" not in err


def test_weights_given_as_a_run_are_named(converted, call_here):
  status, _, err = call_here("predict", "--workdir", converted, "a.jpg")
  assert status == 2
  assert "holds converted weights, not a run: give --weights" in err


def test_a_run_of_small_grey_images_predicts_pictures_of_any_size(tmp_path, call_here):
  """With the mean image of the set subtracted."""
  config = Config(
    model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
    data=DataConfig("digits"),
    batch_size=32,
    length="2 steps",
  )
  (tmp_path / "run").mkdir()
  claim(tmp_path / "run", config, ())
  fit(build_run(config), tmp_path / "run")
  images, _ = sources.digits()["test"]
  for i in range(40):
    PIL.Image.fromarray(images[i, ..., 0]).save(tmp_path / f"{i:02}.png")
  files = sorted(tmp_path.glob("*.png"))
  found = object_of(call_here, "predict", "--workdir", tmp_path / "run", "--top", "10", *files)
  run = build_run(config)
  _, variables = restore_variables(run, tmp_path / "run", "last")
  variables = jax.device_get(variables)
  split = run.dataset.splits["test"]
  batch = split.fetch(np.zeros(40, int), np.arange(40))
  shown, _ = split.view(split.constants, batch, run.key)
  model = models.create("resnet20", stage_sizes=(1,), width=4)
  want = np.asarray(jax.nn.softmax(model.apply(variables, shown)))
  for one, row in zip(found["predictions"], want, strict=True):
    scores = {each["index"]: each["score"] for each in one["top"]}
    np.testing.assert_allclose([scores[i] for i in range(10)], row, rtol=1e-4, atol=1e-7)
  (big,) = object_of(call_here, "predict", "--workdir", tmp_path / "run", enlarged(files[0]))[
    "predictions"
  ]
  assert len(big["top"]) == 5
  assert {each["class"] for each in big["top"]} <= {str(i) for i in range(10)}


def enlarged(file):
  path = file.with_suffix(".jpg")
  PIL.Image.open(file).resize((300, 200)).convert("RGB").save(path)
  return path


def test_names_that_no_terminal_should_see_are_escaped(tuned, folder, tmp_path, call_here):
  image = (folder / "val" / "red" / "0.png").read_bytes()
  for name in (b"two\nlines.png", b"not\xfftext.png", b"\x1b[31mred.png"):
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
      file.write(image)
  status, out, err = call_here("predict", "--workdir", tuned, "--top", "1", tmp_path)
  assert status == 0, err
  names = {line.rpartition("/")[2] for line in out.splitlines()[::2]}
  assert names == {"two\\nlines.png", "not\\udcfftext.png", "\\x1b[31mred.png"}


def test_a_refused_resume_changes_nothing_of_what_the_run_knows(tuned, folder, tmp_path):
  run = shutil.copytree(tuned, tmp_path / "run")
  before = (run / "preprocessing.npz").read_bytes()
  for part in ("train", "val"):
    for name in COLOURS:
      shutil.copytree(folder / part / name, tmp_path / "other" / part / f"x_{name}")
  config = with_data_dir(read_config(run, Config), str(tmp_path / "other"))
  with pytest.raises(UserError, match="not the one that this run has seen"):
    fit(build_run(config), run)
  assert (run / "preprocessing.npz").read_bytes() == before


def test_a_damaged_file_of_what_a_run_knows_is_named_wherever_it_is_damaged(tuned, tmp_path):
  path = tmp_path / "preprocessing.npz"
  content = (tuned / "preprocessing.npz").read_bytes()
  refused = 0
  for bit in np.random.default_rng(0).integers(0, 8 * len(content), 300):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(damaged)
    try:
      find_preprocessing(tmp_path)
    except UserError as error:
      refused += 1
      assert "preprocessing.npz is damaged" in str(error)
  assert refused > 150


def test_a_run_of_before_goes_on_and_then_predicts(tuned, folder, tmp_path, call_here):
  """Its config.json lacks the fields that are new, and what is new in its directory is absent."""
  run = shutil.copytree(tuned, tmp_path / "run")
  config = json.loads((run / "config.json").read_text())
  assert config["data"].pop("channels") == "RGB"
  assert config["data"]["streaming"].pop("cache") == "nothing"
  (run / "config.json").write_text(json.dumps(config))
  (run / "preprocessing.npz").unlink()
  picture = folder / "val" / "red" / "0.png"
  status, _, err = call_here("predict", "--workdir", run, picture)
  assert status == 2
  assert "given again, writes it down" in err
  current = read_config(tuned, Config)
  check_claim(run, current, ())
  fit(build_run(current), run)
  assert call_here("predict", "--workdir", run, picture)[0] == 0


def test_a_run_of_before_says_how_to_get_what_is_missing(tuned, tmp_path, call_here):
  run = shutil.copytree(tuned, tmp_path / "run")
  (run / "preprocessing.npz").unlink()
  status, _, err = call_here("predict", "--workdir", run, "a.jpg")
  assert status == 2
  assert "given again, writes it down" in err
  (run / "preprocessing.npz").write_bytes(b"PK\x03\x04half")
  status, _, err = call_here("predict", "--workdir", run, "a.jpg")
  assert status == 2
  assert "preprocessing.npz is damaged" in err and "Traceback" not in err


def test_a_run_that_shows_pictures_otherwise_than_its_weights_expect_is_told_so(
  converted, folder, tmp_path, call_here
):
  prepare("folder", str(folder), image_size=16, short_side=20)
  fields = [
    f"--config.init_from={converted}",
    "--config.model.name=resnet20",
    "--config.model.stage_sizes", "1", "1", "--config.model.width=4",
    "--config.model.conv_padding=symmetric",
    "--config.data.dataset=folder", f"--config.data.data_dir={folder}",
    "--config.data.streaming.image_size=16", "--config.data.streaming.short_side_min=20",
    "--config.data.streaming.short_side_max=24",
    "--config.data.streaming.short_side_evaluation=20",
    "--config.batch_size=12", "--config.length=1 steps",
  ]  # fmt: skip
  train = ("train", "--config", "digits", "--workdir", tmp_path / "run", "--dry-run")
  status, out, err = call_here(*train, *fields)
  assert status == 0, err
  advice = out.splitlines()[-1]
  assert advice == (
    "pictures are not shown as these weights expect; to show them so: --config.data.mean 0.4 0.5 "
    "0.6 --config.data.std 0.2 0.3 0.4 --config.data.scale 255.0 "
    "--config.data.streaming.interpolation bicubic"
  )
  status, out, err = call_here(*train, *fields, *advice.split(": ")[1].split())
  assert status == 0, err
  assert "pictures are not shown" not in out


def test_the_built_in_experiment_refuses_what_it_cannot_use(tmp_path, call_here):
  train = ("train", "--workdir", tmp_path / "run", "--config")
  for config, words in (
    ("finetune", "which weights"),
    (f"finetune:{tmp_path}", "is no directory of weights"),
    (f"finetune:{tmp_path},headless", "unknown option 'headless'"),
  ):
    status, out, err = call_here(*train, config)
    assert (status, out) == (2, f"resnet-jax train: config {config}, workdir {tmp_path / 'run'}\n")
    assert words in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["preact_resnet110", "resnet20"])
def test_of_fine_tuning_the_head_nothing_else_is_trained(name, tmp_path):
  fields = {"stage_sizes": (1,), "width": 4, "num_classes": 3}
  info = weights.WeightsInfo(ModelConfig(name, fields), "timm", preprocessing=EXPECTED)
  variables = info.create().init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  weights.save_weights(tmp_path / "net", variables, info)
  config = load_config(f"finetune:{tmp_path / 'net'},head", Config)
  trained = jax.tree.map(lambda frozen: not frozen, matching(variables["params"], config.frozen))
  assert {key for key, tree in trained.items() if any(jax.tree.leaves(tree))} == {"head"}
  assert config.model.overrides["frozen_bn"]


def test_streaming_settings_stay_where_weights_do_not_say():
  from resnet_jax.data.preprocessing import with_preprocessing

  data = DataConfig("folder", streaming=StreamingConfig(image_size=160))
  found = with_preprocessing(data, weights.Preprocessing((1.0, 2.0, 3.0)))
  assert found.streaming == data.streaming
  assert found.mean == (1.0, 2.0, 3.0)
