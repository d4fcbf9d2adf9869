"""Evaluation on the command line: protocols, ensembles, results, and what never sees the test."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from resnet_jax.data import DataConfig, StreamingConfig, sources
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.records import read_records
from resnet_jax.run.workdir import claim
from resnet_jax.training import Config, PlateauConfig, ScheduleConfig, build_run, fit
from resnet_jax.training.restore import restore_variables

CONFIG = Config(
  model=ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4}),
  data=DataConfig("digits"),
  batch_size=32,
  length="6 steps",
  evaluate_every="2 steps",
  log_every="2 steps",
)


def finished(workdir, **fields):
  config = dataclasses.replace(CONFIG, **fields)
  workdir.mkdir(exist_ok=True)
  claim(workdir, config, ())
  fit(build_run(config), workdir)
  return workdir


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
  return finished(tmp_path_factory.mktemp("digits"), ema_decay=0.5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """A folder of pictures of several shapes, prepared."""
  import PIL.Image

  from resnet_jax.data.prepare import prepare

  root = tmp_path_factory.mktemp("pictures")
  generator = np.random.default_rng(0)
  for part, count in (("train", 8), ("val", 3)):
    for label, name in enumerate(("dark", "light")):
      (root / part / name).mkdir(parents=True)
      for i in range(count):
        pixels = generator.integers(100 * label, 100 * label + 100, (30 + i, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(root / part / name / f"{i}.png")
  prepare("folder", str(root), image_size=24, short_side=26)
  streaming = StreamingConfig(
    image_size=24, short_side_min=26, short_side_max=30, short_side_evaluation=26, decode_threads=1
  )
  return DataConfig("folder", data_dir=str(root), streaming=streaming)


@pytest.fixture(scope="module")
def pictures_run(pictures, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  return finished(workdir, data=pictures, batch_size=8, length="2 steps")


def evaluated(call_here, *arguments):
  status, out, err = call_here("evaluate", *arguments, "--json")
  assert status == 0, err
  return json.loads(out.splitlines()[-1])


def test_it_is_said_which_weights_split_and_protocol(digits_run, call_here):
  status, out, err = call_here("evaluate", "--workdir", digits_run, "--checkpoint", "best")
  assert status == 0, err
  lines = out.splitlines()
  assert lines[0].startswith("resnet20 after step ")
  assert lines[0].endswith(f"of {digits_run} on the validation split of digits")
  assert lines[1:4] == [
    "raw weights",
    "checkpoint: best",
    "protocol: center (the single view: images as they are)",
  ]
  assert lines[-1].startswith("validation accuracy: ")
  values = evaluated(call_here, "--workdir", digits_run, "--ema", "--split", "test")
  (member,) = values["members"]
  assert (member["weights"], member["checkpoint"], member["step"]) == ("average", "last", 6)
  assert (values["split"], values["examples"], values["dataset"]) == ("test", 360, "digits")


def test_json_holds_errors_intervals_and_classes(digits_run, call_here):
  values = evaluated(call_here, "--workdir", digits_run, "--per-class")
  top1 = values["top1"]
  assert top1["errors"] / 180 == top1["error"] == pytest.approx(1 - values["accuracy"])
  assert 0 <= top1["interval"][0] <= top1["error"] <= top1["interval"][1] <= 1
  assert sum(each["examples"] for each in values["classes"]) == values["examples"] == 180
  assert sum(each["top1"]["errors"] for each in values["classes"]) == top1["errors"]
  assert [each["class"] for each in values["classes"]] == [str(digit) for digit in range(10)]


def test_the_confusion_matrix_is_written_as_asked(digits_run, tmp_path, call_here):
  for name in ("matrix.npz", "matrix.csv"):
    values = evaluated(call_here, "--workdir", digits_run, "--confusion", tmp_path / name)
  with np.load(tmp_path / "matrix.npz") as file:
    matrix, names = file["confusion"], file["class_names"]
  assert matrix.sum() == 180
  assert np.trace(matrix) == 180 - values["top1"]["errors"]
  with (tmp_path / "matrix.csv").open(newline="") as file:
    header, *rows = csv.reader(file)
  assert header[1:] == [row[0] for row in rows] == names.tolist()
  assert [[int(value) for value in row[1:]] for row in rows] == matrix.tolist()


def test_an_ensemble_of_one_run_twice_is_that_run(digits_run, call_here):
  one = evaluated(call_here, "--workdir", digits_run)
  two = evaluated(call_here, "--workdir", digits_run, "--workdir", digits_run)
  assert len(two.pop("members")) == 2 and one.pop("members")
  assert two.pop("loss") == pytest.approx(one.pop("loss"))
  assert two == one


def test_an_ensemble_on_other_data_is_refused(digits_run, pictures_run, call_here):
  status, out, err = call_here("evaluate", "--workdir", digits_run, "--workdir", pictures_run)
  assert (status, out) == (2, "")
  assert "has other classes than" in err
  assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
  ("protocol", "named"),
  [
    (("--short-side", "32", "--crop", "28"), "center (centre crop of 28; short side 32)"),
    (("--protocol", "ten_crop"), "ten_crop (ten crops of 24; short side 26)"),
    (
      ("--protocol", "dense", "--short-sides", "24", "30"),
      "dense (views of 24 everywhere, mirrored too; short sides 24, 30; long sides rounded to 32)",
    ),
  ],
)
def test_pictures_are_tested_by_every_protocol(pictures_run, call_here, protocol, named):
  status, out, err = call_here("evaluate", "--workdir", pictures_run, *protocol)
  assert status == 0, err
  assert f"protocol: {named}" in out.splitlines()
  assert "examples: 6" in out.splitlines()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--protocol", "ten_crop"), "leave out --protocol"),
    (("--crop", "4"), "leave out --protocol"),
    (("--short-side", "9", "--short-sides", "9"), "--short-side or --short-sides"),
    (("--protocol", "dense", "--short-side", "9"), "takes --short-sides"),
    (("--confusion", "matrix.txt"), "neither in .npz nor in .csv"),
    (("--confusion", "absent/matrix.csv"), "no directory absent"),
  ],
)
def test_what_makes_no_sense_is_refused(digits_run, call_here, arguments, words):
  status, out, err = call_here("evaluate", "--workdir", digits_run, *arguments)
  assert (status, out) == (2, "")
  assert words in err
  assert "Traceback" not in err


def test_a_crop_that_does_not_fit_is_refused(pictures, pictures_run, tmp_path, call_here):
  status, _, err = call_here("evaluate", "--workdir", pictures_run, "--crop", "100")
  assert status == 2
  assert "a view of 100 pixels does not fit a short side of 26" in err
  model = ModelConfig("resnet20", {"stage_sizes": (1,), "width": 4, "head": "flatten"})
  flat = finished(tmp_path / "flat", data=pictures, model=model, batch_size=8, length="1 steps")
  status, _, err = call_here("evaluate", "--workdir", flat, "--crop", "20")
  assert (status, len(err.splitlines())) == (2, 1)
  assert "--crop 20: views of this size do not fit the network" in err


def test_another_protocol_s_test_result_is_not_that_of_the_records(tmp_path, digits_run, call_here):
  before = list(read_records(digits_run))
  both = ("--workdir", digits_run, "--workdir", digits_run)
  assert call_here("evaluate", *both, "--split", "test")[0] == 0
  assert list(read_records(digits_run)) == before


def leaves(workdir, average=False):
  run = build_run(dataclasses.replace(CONFIG, ema_decay=0.5))
  _, variables = restore_variables(run, workdir, "last", average)
  return {
    collection: jax.tree.leaves(jax.device_get(variables[collection]))
    for collection in ("params", "batch_stats")
  }


def test_a_re_estimated_run_differs_in_its_batch_statistics_alone(digits_run, tmp_path, call_here):
  before = {p: p.read_bytes() for p in digits_run.rglob("*") if p.is_file() and p.name != "lock"}
  new = tmp_path / "new"
  arguments = ("--workdir", digits_run, "--examples", "100", "--output", new)
  status, out, err = call_here("reestimate-bn", *arguments)
  assert status == 0, err
  assert "of 128 training examples, in batches of 32" in out
  assert {p: p.read_bytes() for p in before} == before
  for average in (False, True):
    ours, theirs = leaves(new, average), leaves(digits_run, average)
    for one, other in zip(ours["params"], theirs["params"], strict=True):
      np.testing.assert_array_equal(one, other)
    for one, other in zip(ours["batch_stats"], theirs["batch_stats"], strict=True):
      assert not np.array_equal(one, other)
  raw, average = (leaves(new, average)["batch_stats"] for average in (False, True))
  assert not np.array_equal(raw[0], average[0])
  status, out, err = call_here("evaluate", "--workdir", new)
  assert status == 0, err
  assert "batch statistics: re-estimated of 128 training examples" in out.splitlines()
  # Six steps from zero, the moving averages are not there yet.
  assert (
    evaluated(call_here, "--workdir", new)["loss"]
    < evaluated(call_here, "--workdir", digits_run)["loss"]
  )
  status, _, err = call_here("reestimate-bn", *arguments)
  assert (status, len(err.splitlines())) == (2, 1)
  assert "is there already: choose another directory" in err
  # It is a run like any other, and trained on it has moving averages again.
  fit(build_run(dataclasses.replace(CONFIG, ema_decay=0.5, length="8 steps")), new)
  (member,) = evaluated(call_here, "--workdir", new)["members"]
  assert (member["step"], member["batch_statistics"]) == (8, "training")
  (member,) = evaluated(call_here, "--workdir", new, "--checkpoint", "6")["members"]
  assert member["batch_statistics"]["examples"] == 128


def chosen(workdir):
  """All that a run has chosen, recorded and become."""
  checkpoints = Checkpoints(workdir, read_only=True)
  run = build_run(CONFIG)
  _, variables = restore_variables(run, workdir, "last")
  records = [
    {name: value for name, value in record.items() if name != "images_per_second"}
    for record in read_records(workdir)
    if record["split"] != "test"
  ]
  checkpoints.close()
  return (
    records,
    checkpoints.steps(),
    checkpoints.best(),
    [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(variables))],
  )


def test_nothing_that_is_chosen_depends_on_the_labels_of_the_test_split(
  tmp_path, call_here, monkeypatch
):
  # The rate follows every evaluation, and is in the records.
  plateau = ScheduleConfig(kind="plateau", plateau=PlateauConfig(patience=0, threshold=0.5))
  fields = {"schedule": plateau, "length": "10 steps"}
  first = finished(tmp_path / "first", **fields)
  results = [evaluated(call_here, "--workdir", first, "--split", "test")]
  validated = [evaluated(call_here, "--workdir", first, "--checkpoint", "best")]
  digits = sources.digits

  def permuted():
    arrays = digits()
    images, labels = arrays["test"]
    return {**arrays, "test": (images, np.random.default_rng(0).permutation(labels))}

  monkeypatch.setattr(sources, "digits", permuted)
  second = finished(tmp_path / "second", **fields)
  results.append(evaluated(call_here, "--workdir", second, "--split", "test"))
  validated.append(evaluated(call_here, "--workdir", second, "--checkpoint", "best"))
  assert results[0]["loss"] != results[1]["loss"]
  rates = {r["learning_rate"] for r in read_records(first) if r["split"] == "train"}
  assert len(rates) > 1
  assert chosen(first) == chosen(second)
  for values in validated:
    del values["members"][0]["workdir"]
  assert validated[0] == validated[1]
