"""What `evaluate` and `predict` pass on: each argument, and each setting of a run or of weights.

The scores are computed here too: Pillow's resizing, NumPy's crops and normalisation, the network
applied to each view, weights read from the checkpoint by Orbax. Of every case each argument and
setting is left out in turn, which has to give other numbers: so none of them can get lost.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
import scipy.special

from resnet_jax import devices, models, weights
from resnet_jax.data import DataConfig, StreamingConfig
from resnet_jax.evaluation import prediction
from resnet_jax.models import ModelConfig
from resnet_jax.run.workdir import claim
from resnet_jax.training import CheckpointConfig, Config, OptimizerConfig, build_run, fit

CLASSES = ("ant", "bee", "cat")
FIELDS = {"stage_sizes": (1, 1), "width": 4}
COUNTS = {"train": 4, "val": 3, "test": 2}
TOLERANCE = 0.0015  # Of losses: Pillow rounds between its two passes of resizing.


@dataclasses.dataclass(frozen=True)
class Shown:
  """All that decides what is computed of a picture; by default what the run below has."""

  checkpoint: str = "last"
  average: bool = False
  split: str = "val"
  protocol: str = "center"
  crop: int = 16
  short_sides: tuple[int, ...] = (20,)
  quantum: int = 32
  interpolation: str = "bicubic"
  channels: str = "BGR"
  mean: tuple[float, ...] = (0.3, 0.5, 0.6)
  std: tuple[float, ...] = (0.2, 0.3, 0.25)
  scale: float = 255.0


# What each is where nobody has said anything; `mean` of pictures from 0 to 255.
UNSET = Shown(interpolation="bilinear", channels="RGB", mean=(0.0,) * 3, std=(1.0,), scale=1.0)


def left_out(shown: Shown) -> list[Shown]:
  """With one argument or setting fewer, each in turn."""
  own = {field.name: getattr(shown, field.name) for field in dataclasses.fields(shown)}
  return [
    dataclasses.replace(shown, **{name: getattr(UNSET, name)})
    for name, value in own.items()
    if value != getattr(UNSET, name)
    # Of several sizes only the dense protocol can be asked for; the shapes show the quantum.
    and not (shown.protocol == "dense" and name in ("protocol", "quantum"))
  ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Noise of two sizes, both smaller than what is shown: how they are enlarged matters."""
  root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
  for part, count in COUNTS.items():
    for label, name in enumerate(CLASSES):
      (root / part / name).mkdir(parents=True)
      for i in range(count):
        size = ((14, 19), (18, 13))[(i + label) % 2]
        noise = generator.normal(128, 60, (*size, 3)) + (30, 0, -30)[label]
        pixels = np.clip(noise, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(root / part / name / f"{i}.png")
  return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> pathlib.Path:
  """A run whose best checkpoint is neither its first nor its last."""
  own = Shown()
  streaming = StreamingConfig(
    image_size=own.crop,
    short_side_min=20,
    short_side_max=24,
    short_side_evaluation=own.short_sides[0],
    interpolation=own.interpolation,
    decode_threads=1,
  )
  config = Config(
    model=ModelConfig("resnet20", FIELDS),
    data=DataConfig(
      "folder",
      str(folder),
      mean=own.mean,
      std=own.std,
      scale=own.scale,
      channels=own.channels,
      streaming=streaming,
    ),
    optimizer=OptimizerConfig(learning_rate=0.05),
    batch_size=8,
    length="8 steps",
    evaluate_every="2 steps",
    checkpoint=CheckpointConfig(every="2 steps", keep=10, metric="loss"),
    ema_decay=0.5,
    evaluation_batch_size=3,
  )
  workdir = tmp_path_factory.mktemp("run") / "run"
  workdir.mkdir()
  claim(workdir, config, ())
  fit(build_run(config), workdir)
  return workdir


def best_step(workdir: pathlib.Path) -> int:
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  losses = {r["step"]: r["loss"] for r in lines if r["split"] == "validation"}
  best = min(losses, key=losses.__getitem__)
  assert best not in (2, 8)
  return best


@functools.cache
def variables_of(workdir: pathlib.Path, checkpoint: str, average: bool):
  step = {"last": 8, "best": best_step(workdir)}.get(checkpoint, checkpoint)
  with ocp.PyTreeCheckpointer() as checkpointer:
    state = checkpointer.restore(workdir / "checkpoints" / str(step) / "state")
  if average:
    state = state["average"]
  return {name: state[name] for name in ("params", "batch_stats")}


MODEL = models.create("resnet20", **FIELDS, num_classes=len(CLASSES))


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, images):
  return model.apply(variables, images, return_features=True)


def files(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
  return sorted((folder / split).rglob("*.png"))


def normalised(shown: Shown, pixels) -> np.ndarray:
  pixels = np.asarray(pixels, np.float64)
  pixels = pixels[..., ::-1] if shown.channels == "BGR" else pixels
  return ((pixels / shown.scale - shown.mean) / shown.std).astype(np.float32)


def resized(shown: Shown, file: pathlib.Path, short_side: int) -> PIL.Image.Image:
  image = PIL.Image.open(file)
  size = [int(side * short_side / min(image.size) + 0.5) for side in image.size]
  if shown.protocol == "dense":
    long = max(short_side, int(max(size) / shown.quantum + 0.5) * shown.quantum)
    size = [short_side if side == min(size) else long for side in size]
  return image.resize(size, PIL.Image.Resampling[shown.interpolation.upper()])


def crops(shown: Shown, image: PIL.Image.Image) -> list[np.ndarray]:
  right, bottom = (side - shown.crop for side in image.size)
  corners = [(right // 2, bottom // 2)]
  if shown.protocol == "ten_crop":
    corners += [(0, 0), (right, 0), (0, bottom), (right, bottom)]
  boxes = [(left, top, left + shown.crop, top + shown.crop) for left, top in corners]
  found = [np.asarray(image.crop(box)) for box in boxes]
  return found + [crop[:, ::-1] for crop in found] if shown.protocol == "ten_crop" else found


def dense_scores(shown: Shown, model, variables, image: PIL.Image.Image) -> np.ndarray:
  """Mean over both images and all windows of the last map, which has half of the pixels' side."""
  views, side = [], shown.crop // 2
  for pixels in (np.asarray(image), np.asarray(image)[:, ::-1]):
    _, features = apply(model, variables, normalised(shown, pixels)[None])
    last = np.asarray(features["stage2"][0], np.float64)
    views += [
      last[row : row + side, column : column + side].mean((0, 1))
      for row in range(last.shape[0] - side + 1)
      for column in range(last.shape[1] - side + 1)
    ]
  head = variables["params"]["head"]
  logits = np.stack(views) @ np.asarray(head["kernel"], np.float64) + head["bias"]
  return scipy.special.softmax(logits, -1).mean(0)


def scores(shown: Shown, model, variables, pictures) -> np.ndarray:
  """(pictures, outputs): the mean softmax over everything that is shown of each."""
  if shown.protocol == "dense":
    per_side = [
      [dense_scores(shown, model, variables, resized(shown, f, side)) for f in pictures]
      for side in shown.short_sides
    ]
    return np.mean(per_side, 0)
  (side,) = shown.short_sides
  views = [normalised(shown, crops(shown, resized(shown, f, side))) for f in pictures]
  logits = apply(model, variables, np.concatenate(views))[0]
  softmax = scipy.special.softmax(np.asarray(logits, np.float64), -1)
  return softmax.reshape(len(pictures), -1, softmax.shape[-1]).mean(1)


def scores_of_run(shown: Shown, run, folder) -> np.ndarray:
  variables = variables_of(run, shown.checkpoint, shown.average)
  return scores(shown, MODEL, variables, files(folder, shown.split))


def loss(found: np.ndarray, split: str, names=CLASSES) -> float:
  labels = np.repeat([names.index(name) for name in CLASSES], COUNTS[split])
  return -np.log(found[np.arange(len(labels)), labels]).mean()


def accuracy(found: np.ndarray, split: str) -> float:
  return (found.argmax(1) == np.repeat(range(len(CLASSES)), COUNTS[split])).mean()


def evaluated(call_here, *arguments) -> dict:
  status, out, err = call_here("evaluate", *arguments, "--json")
  assert status == 0, err
  return json.loads(out)


@pytest.fixture
def shapes(monkeypatch) -> list[tuple[int, ...]]:
  """Those of the pixels of all batches that go to the devices."""
  shard, shapes = devices.shard, []
  monkeypatch.setattr(
    devices, "shard", lambda batch: shapes.append(batch["image"].shape) or shard(batch)
  )
  return shapes


CASES = [
  ((), Shown()),
  (("--split", "test", "--checkpoint", "best"), Shown(split="test", checkpoint="best")),
  (
    ("--ema", "--checkpoint", "2", "--crop", "12", "--short-side", "18"),
    Shown(average=True, checkpoint="2", crop=12, short_sides=(18,)),
  ),
  (
    ("--protocol", "ten_crop", "--short-side", "24", "--crop", "14", "--split", "test", "--ema"),
    Shown(protocol="ten_crop", short_sides=(24,), crop=14, split="test", average=True),
  ),
  (
    ("--protocol", "dense", "--short-sides", "17", "22", "--quantum", "1", "--crop", "12"),
    Shown(protocol="dense", short_sides=(17, 22), quantum=1, crop=12),
  ),
]


@pytest.mark.parametrize(("arguments", "shown"), CASES)
def test_each_argument_and_setting_of_a_run_gets_to_what_is_computed(
  arguments, shown, run, folder, call_here, shapes
):
  found = evaluated(call_here, "--workdir", run, *arguments)
  want = scores_of_run(shown, run, folder)
  if shown.protocol == "dense":
    resizes = [resized(shown, f, side) for f in files(folder, "val") for side in shown.short_sides]
    sizes = {(image.height, image.width) for image in resizes}
  else:
    sizes = {(shown.crop, shown.crop)}
  assert {shape[-3:-1] for shape in shapes} == sizes
  assert found["loss"] == pytest.approx(loss(want, shown.split), rel=TOLERANCE)
  assert found["accuracy"] == pytest.approx(accuracy(want, shown.split))
  assert found["examples"] == len(want)
  for other in left_out(shown):
    lost = loss(scores_of_run(other, run, folder), other.split)
    assert abs(lost / found["loss"] - 1) > 2 * TOLERANCE, other


def test_the_scores_of_the_test_split_are_recorded_with_their_step_and_which_weights(
  run, folder, tmp_path, call_here
):
  workdir = shutil.copytree(run, tmp_path / "run")
  for more in (("--checkpoint", "2"), ("--checkpoint", "2", "--ema"), ("--protocol", "ten_crop")):
    evaluated(call_here, "--workdir", workdir, "--split", "test", *more)
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  records = {record["step"]: record for record in lines if record["split"] == "test"}
  assert 8 not in records  # Ten crops are not what the run is validated by.
  record = records[2]
  raw, average = (
    loss(scores_of_run(Shown("2", average, "test"), run, folder), "test")
    for average in (False, True)
  )
  assert abs(raw / average - 1) > 2 * TOLERANCE
  assert record["loss"] == pytest.approx(raw, rel=TOLERANCE)
  assert record["ema_loss"] == pytest.approx(average, rel=TOLERANCE)


@pytest.mark.parametrize(("more", "sizes"), [((), [4, 4, 4]), (("--batch-size", "7"), [8, 8])])
def test_as_many_are_shown_at_a_time_as_the_run_or_the_argument_says(
  more, sizes, run, call_here, shapes
):
  evaluated(call_here, "--workdir", run, *more)
  # Over four devices.
  assert [shape[0] for shape in shapes] == sizes


def test_a_run_is_measured_on_data_that_lies_elsewhere_now(run, folder, tmp_path, call_here):
  moved = shutil.copytree(run, tmp_path / "run")
  config = json.loads((moved / "config.json").read_text())
  config["data"]["data_dir"] = str(tmp_path / "nowhere")
  (moved / "config.json").write_text(json.dumps(config))
  status, _, err = call_here("evaluate", "--workdir", moved)
  assert (status, "Traceback" in err) == (2, False)
  found = evaluated(call_here, "--workdir", moved, "--data-dir", folder)
  assert found["loss"] == pytest.approx(
    loss(scores_of_run(Shown(), run, folder), "val"), rel=TOLERANCE
  )


OTHER = Shown(
  crop=14,
  short_sides=(22,),
  channels="BGR",
  mean=(90.0, 110.0, 130.0),
  std=(60.0, 70.0, 80.0),
  scale=1.0,
)
NAMES = ("cat", "ant", "bee")  # Not in the order of the folder's classes.


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> tuple[pathlib.Path, object, dict]:
  """Weights of a network with an output before its classes; the network, and its variables."""
  preprocessing = weights.Preprocessing(
    OTHER.mean,
    OTHER.std,
    OTHER.scale,
    OTHER.channels,
    size=OTHER.crop,
    resize=OTHER.short_sides[0],
    interpolation=OTHER.interpolation,
  )
  info = weights.WeightsInfo(
    ModelConfig("resnet20", FIELDS | {"num_classes": 4}),
    "timm",
    preprocessing=preprocessing,
    class_names=NAMES,
    class_offset=1,
  )
  model = info.create()
  images = np.zeros((1, 16, 16, 3), np.float32)
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(3), images))
  head = {"kernel": variables["params"]["head"]["kernel"] * 4, "bias": np.float32([3, 0, 1, -1])}
  variables = {**variables, "params": {**variables["params"], "head": head}}
  directory = tmp_path_factory.mktemp("weights") / "net"
  weights.save_weights(directory, variables, info)
  return directory, model, variables


def scores_of_weights(shown: Shown, converted, folder, offset: int = 1) -> np.ndarray:
  """In the order of the weights' own classes."""
  _, model, variables = converted
  head = {name: leaf[..., offset:][..., :3] for name, leaf in variables["params"]["head"].items()}
  variables = {**variables, "params": {**variables["params"], "head": head}}
  return scores(shown, model.clone(num_classes=3), variables, files(folder, shown.split))


@pytest.mark.parametrize(
  ("more", "shown"),
  [
    ((), OTHER),
    (
      ("--split", "test", "--protocol", "ten_crop", "--crop", "12", "--batch-size", "5"),
      dataclasses.replace(OTHER, split="test", protocol="ten_crop", crop=12),
    ),
  ],
)
def test_each_argument_and_setting_of_weights_gets_to_what_is_computed(
  more, shown, converted, folder, call_here
):
  on = ("--dataset", "folder", "--data-dir", folder)
  found = evaluated(call_here, "--weights", converted[0], *on, *more, "--per-class")
  want = scores_of_weights(shown, converted, folder)
  assert found["loss"] == pytest.approx(loss(want, shown.split, NAMES), rel=TOLERANCE)
  assert [each["class"] for each in found["classes"]] == [*NAMES]
  lost = [loss(scores_of_weights(o, converted, folder), o.split, NAMES) for o in left_out(shown)]
  lost.append(loss(want, shown.split))  # Labels in the order of the folder's own names.
  lost.append(loss(scores_of_weights(shown, converted, folder, 0), shown.split, NAMES))
  for other in lost:
    assert abs(other / found["loss"] - 1) > 2 * TOLERANCE, (lost, left_out(shown))


def test_an_ensemble_of_different_networks_has_the_mean_of_their_scores(
  run, folder, tmp_path, call_here
):
  """Each with its own settings: those of the second are not the first one's."""
  second = shutil.copytree(run, tmp_path / "second")
  config = json.loads((second / "config.json").read_text())
  config["data"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.5], "channels": "RGB"}
  (second / "config.json").write_text(json.dumps(config))
  shutil.rmtree(second / "checkpoints" / "8")
  first = scores_of_run(Shown(average=True), run, folder)
  own = dataclasses.replace(Shown("6", True), mean=(0.1, 0.2, 0.3), std=(0.5,), channels="RGB")
  both = (first + scores_of_run(own, run, folder)) / 2
  found = evaluated(call_here, "--workdir", run, "--workdir", second, "--ema")
  assert [member["step"] for member in found["members"]] == [8, 6]
  assert found["loss"] == pytest.approx(loss(both, "val"), rel=TOLERANCE)
  for other in (Shown("6", True), dataclasses.replace(own, average=False)):
    lost = (first + scores_of_run(other, run, folder)) / 2
    assert abs(loss(lost, "val") / found["loss"] - 1) > 2 * TOLERANCE
  assert abs(loss(first, "val") / found["loss"] - 1) > 2 * TOLERANCE


def predicted(call_here, *arguments) -> np.ndarray:
  """(pictures, classes): the scores, in the order of the classes."""
  status, out, err = call_here("predict", *arguments, "--json")
  assert status == 0, err
  found = json.loads(out)["predictions"]
  return np.array([[each["score"] for each in sorted_by_index(one["top"])] for one in found])


def sorted_by_index(top):
  assert [each["index"] for each in top] != []
  return sorted(top, key=lambda each: each["index"])


def assert_far(found: np.ndarray, other: np.ndarray) -> None:
  """Some picture's scores differ by more than resizing could explain."""
  assert np.abs(found - other).max() > 0.012


@pytest.mark.parametrize(
  ("more", "shown"),
  [((), Shown()), (("--ema", "--checkpoint", "best"), Shown("best", True))],
)
def test_each_argument_and_setting_of_a_run_gets_to_what_is_predicted(
  more, shown, run, folder, call_here, monkeypatch
):
  fill, batches = prediction.fill, []
  monkeypatch.setattr(prediction, "fill", lambda rows, n: batches.append(n) or fill(rows, n))
  pictures = files(folder, "val")
  found = predicted(call_here, "--workdir", run, "--batch-size", "4", *more, *pictures)
  assert len(pictures) == 9
  assert batches == [3, 3, 3]  # As few batches of at most 4 as there can be, of equal size.
  np.testing.assert_allclose(found, scores_of_run(shown, run, folder), atol=0.005)
  for other in left_out(shown):
    assert_far(found, scores_of_run(other, run, folder))


@pytest.mark.parametrize("exported", [False, True])
def test_each_setting_of_weights_gets_to_what_is_predicted(
  exported, converted, folder, tmp_path, call_here
):
  pictures = files(folder, "val")
  source = ("--weights", converted[0])
  if exported:
    out = ("--format", "stablehlo", "--output", tmp_path / "program")
    status, _, err = call_here("convert", *source, *out)
    assert status == 0, err
    source = ("--export", tmp_path / "program")
  found = predicted(call_here, *source, *pictures)
  np.testing.assert_allclose(found, scores_of_weights(OTHER, converted, folder), atol=0.005)
  for other in left_out(OTHER):
    assert_far(found, scores_of_weights(other, converted, folder))
  assert_far(found, scores_of_weights(OTHER, converted, folder, offset=0))
  status, text, _ = call_here("predict", *source, "--top", "1", pictures[0])
  best = NAMES[scores_of_weights(OTHER, converted, folder)[0].argmax()]
  assert (status, len(text.splitlines())) == (0, 2)
  assert text.splitlines()[1].endswith(f"%  {best}")


@pytest.mark.parametrize(("which", "average"), [("", False), (":best", True)])
def test_a_run_s_weights_go_out_from_the_checkpoint_that_is_named(
  which, average, run, tmp_path, call_here
):
  """As a program; its logits are those of the checkpoint's arrays, read by Orbax."""
  more = ("--ema",) if average else ()
  out = ("--format", "stablehlo", "--normalized", "--output", tmp_path / "program")
  status, _, err = call_here("convert", "--weights", f"{run}{which}", *more, *out)
  assert status == 0, err
  call, _ = weights.load_export(tmp_path / "program")
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  variables = variables_of(run, which.removeprefix(":") or "last", average)
  np.testing.assert_allclose(call(images), apply(MODEL, variables, images)[0], rtol=1e-3, atol=1e-4)
