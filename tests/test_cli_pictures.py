"""A folder of pictures on the command line: prepared, trained on, with a record that breaks."""

import json

import pytest
from test_cli import call

PICTURES, CLASSES = 16, ("dark", "light")


@pytest.fixture
def folder(tmp_path):
  """Dark and light pictures, to train and to validate with."""
  import numpy as np
  import PIL.Image

  generator = np.random.default_rng(0)
  for split, count in (("train", PICTURES), ("val", 3)):
    for label, name in enumerate(CLASSES):
      path = tmp_path / "pictures" / split / name
      path.mkdir(parents=True)
      for i in range(count):
        pixels = generator.integers(100 * label, 100 * label + 100, (30 + i, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(path / f"{i}.jpg", quality=90)
  return tmp_path / "pictures"


def train(folder, workdir, *more):
  return call(
    *("train", "--config", "digits", "--workdir", workdir),
    *("--config.data.dataset=folder", f"--config.data.data_dir={folder}"),
    *("--config.data.streaming.image_size=24", "--config.data.streaming.short_side_min=26"),
    *(
      "--config.data.streaming.short_side_max=40",
      "--config.data.streaming.short_side_evaluation=26",
    ),
    *("--config.model.stage_sizes", "1", "1", "1", "--config.model.width=4"),
    *("--config.batch_size=8", "--config.log_every=2 steps", "--config.checkpoint.every=2 steps"),
    *more,
  )


@pytest.mark.long
def test_a_folder_is_prepared_trained_on_and_survives_a_picture_that_breaks(folder, tmp_path):
  status, out, err = call(
    *("prepare", "folder", "--data-dir", folder, "--image-size", "24", "--short-side", "26")
  )
  assert status == 0, err
  assert "the mean of 32 images" in out
  workdir = tmp_path / "run"
  status, _, err = train(folder, workdir, "--config.length=2 epochs")
  assert status == 0, err
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  last = [line for line in lines if line["split"] == "validation"][-1]
  assert (last["step"], last["examples"]) == (8, 6)

  broken = folder / "train" / "dark" / "7.jpg"
  broken.write_bytes(broken.read_bytes()[:400])
  longer = "--config.length=4 epochs"
  status, _, err = train(folder, workdir, longer, "--config.data.streaming.undecodable=stop")
  assert status == 2
  assert str(broken) in err and "undecodable=skip" in err and "Traceback" not in err
  status, out, err = train(folder, workdir, longer, "--config.data.streaming.undecodable=skip")
  assert status == 0, err
  assert "resumed after step" in out + err and str(broken) in err
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert lines[-1]["step"] == 16
  third_epoch = [line for line in lines if line["split"] == "train" and 8 < line["step"] <= 12]
  assert sum(line["examples"] for line in third_epoch) == 2 * PICTURES - 1
