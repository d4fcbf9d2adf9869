"""Every random quantity of a training view: its distribution, and that it is drawn by itself.

All is measured from the pixels that the network is shown. The images are ramps: red grows with the
column and green with the row, so that a crop shows where it begins, how it was resized, and whether
it is mirrored.
"""

import itertools

import jax
import matplotlib.colors
import numpy as np
import PIL.Image
import pytest
import scipy.stats

from resnet_jax.data import DataConfig, ResidentConfig, epoch_order, resident_dataset
from resnet_jax.data.augment import ALEXNET_COMPONENTS, ALEXNET_MAGNITUDES
from resnet_jax.data.config import ColorJitterConfig, InceptionCropConfig, StreamingConfig
from resnet_jax.data.sources import open_dataset

SEEDS, EPOCHS, EXAMPLES = 2, 60, 50
DRAWS = SEEDS * EPOCHS * EXAMPLES
SHAPE = (SEEDS, EPOCHS, EXAMPLES)
# The standard error of a correlation of independent draws is 1 / sqrt(n); 5 of them are met once in
# two million pairs, and the draws are always the same ones.
BOUND = 5 / np.sqrt(DRAWS)

HEIGHT, WIDTH, SIZE, SHORT_SIDES = 40, 60, 16, (20, 40)
STEP, FIRST = 3, 64  # Grey levels from one pixel to the next, and of the first.
AREA, ASPECT = (0.1, 0.4), (3 / 4, 4 / 3)  # A crop of these always fits, and is never drawn again.
JITTER = {"brightness": 0.2, "saturation": 0.5, "hue": 0.2, "contrast": 0.5}


def views(split, others, seed):
  """What a training split shows of every example in every epoch, and what other views make of it.

  The host's part, the crop, is the same in all.
  """
  epochs, examples = (numbers.ravel() for numbers in np.indices((EPOCHS, EXAMPLES), np.int32))
  batch = split.fetch(epochs, examples)
  return [
    np.asarray(jax.jit(view)(split.constants, batch, jax.random.key(seed))[0], np.float64)
    for view in (split.view, *others)
  ]


def places(seed):
  """The place of each example in the order of each epoch."""
  return np.stack([np.argsort(epoch_order(seed, epoch, EXAMPLES)) for epoch in range(EPOCHS)])


def gathered(per_seed):
  """The quantities of each seed, as arrays (seeds, epochs, examples)."""
  return {
    name: np.stack([np.reshape(each[name], (EPOCHS, EXAMPLES)) for each in per_seed]).astype(float)
    for name in per_seed[0]
  }


@pytest.fixture(scope="module")
def resident():
  """First row and column of the crop in the padded image, mirror, and place in the epoch."""
  rows, columns = np.indices((8, 8))
  image = np.stack([columns + 1, rows + 1, np.ones_like(rows)], -1).astype(np.uint8)
  arrays = {"train": (np.broadcast_to(image, (EXAMPLES, 8, 8, 3)), np.zeros(EXAMPLES, np.int64))}
  config = DataConfig(mean=(0.0, 0.0, 0.0), resident=ResidentConfig(padding=3, flip=True))
  split = resident_dataset("ramps", arrays, "a", config).splits["train"]
  per_seed = []
  for seed in range(SEEDS):
    [shown] = views(split, [], seed)
    # The two columns in the middle are of the image whatever the offset.
    left, right = shown[:, 4, 3, 0], shown[:, 4, 4, 0]
    mirrored = left > right
    per_seed.append(
      {
        "crop row": shown[:, 4, 4, 1] - 2,
        "crop column": np.minimum(left, right) - 1,
        "mirror": mirrored,
        "place in the epoch": places(seed),
      }
    )
  return gathered(per_seed)


def ramps(folder):
  """A folder of equal pictures, a class each half."""
  rows, columns = np.indices((HEIGHT, WIDTH))
  planes = (FIRST + STEP * columns, FIRST + STEP * rows, np.full_like(rows, 128))
  picture = PIL.Image.fromarray(np.stack(planes, -1).astype(np.uint8))
  for number in range(EXAMPLES):
    path = folder / "train" / "ab"[number % 2] / f"{number:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def open_streamed(folder, seed, crop, color_noise=0.0, **jitter):
  settings = StreamingConfig(
    image_size=SIZE,
    crop=crop,
    short_side_min=SHORT_SIDES[0],
    short_side_max=SHORT_SIDES[1],
    short_side_evaluation=SHORT_SIDES[0],
    inception=InceptionCropConfig(*AREA, *ASPECT),
    color_noise=color_noise,
    color_jitter=ColorJitterConfig(**jitter),
    decode_threads=1,
    cache="decoded",
  )
  config = DataConfig("folder", str(folder), mean=(0.0, 0.0, 0.0), streaming=settings)
  return open_dataset(config, seed).splits["train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("ramps")
  ramps(folder)
  return folder


def geometry(shown):
  """Rows, columns, first row and first column of each crop in the stored image; mirror."""
  # The outermost pixels are left out: what is resized ends at the crop's border.
  inner = np.arange(2, SIZE - 2)
  center = inner.mean()

  def line(values):
    """Slope, and value in the middle, of each row of values, by least squares."""
    slope = (values * (inner - center)).sum(1) / ((inner - center) ** 2).sum()
    return slope, values.mean(1)

  across, red = line(shown[:, 2:-2, 2:-2, 0].mean(1))
  down, green = line(shown[:, 2:-2, 2:-2, 1].mean(2))
  columns, rows = np.abs(across) / STEP * SIZE, down / STEP * SIZE
  return (
    rows,
    columns,
    (green - FIRST) / STEP + 0.5 - rows / 2,
    (red - FIRST) / STEP + 0.5 - columns / 2,
    across < 0,
  )


def colors(shown, noisy, jittered):
  """What was added along each principal component, and the four quantities of the jitter."""
  noise = (noisy - shown)[:, 0, 0] / 255
  along = noise @ np.linalg.inv(np.array(ALEXNET_COMPONENTS)).T / np.array(ALEXNET_MAGNITUDES)
  plain, turned, faded = (
    matplotlib.colors.rgb_to_hsv(np.clip(pixels / 255, 0, 1).reshape(len(pixels), -1, 3))
    for pixels in (shown, jittered["hue"], jittered["saturation"])
  )
  # Of pixels of little colour, so that no saturation is cut off.
  little = np.where((plain[..., 1] > 0.05) & (plain[..., 1] < 0.6), 1.0, np.nan)
  turn = (turned[..., 0] - plain[..., 0] + 0.5) % 1 - 0.5
  spread = [pixels[:, :, :, 1].std((1, 2)) for pixels in (jittered["contrast"], shown)]
  return {
    **{f"color noise {i + 1}": along[:, i] for i in range(3)},
    "brightness": (jittered["brightness"] - shown)[:, :, :, 2].mean((1, 2)) / 255,
    "saturation": np.nanmedian(faded[..., 1] / (plain[..., 1] * little), 1),
    "hue": np.nanmedian(turn * little, 1),
    "contrast": spread[0] / spread[1],
  }


@pytest.fixture(scope="module")
def streamed(folder):
  """The paper's crop, mirror and colour noise, and the jitter of later recipes."""
  per_seed = []
  for seed in range(SEEDS):
    split = open_streamed(folder, seed, "scale_jitter")
    others = [open_streamed(folder, seed, "scale_jitter", 0.1).view]
    others += [
      open_streamed(folder, seed, "scale_jitter", **{name: most}).view
      for name, most in JITTER.items()
    ]
    shown, noisy, *jittered = views(split, others, seed)
    rows, columns, top, left, mirrored = geometry(shown)
    short_side = SIZE * HEIGHT / rows
    per_seed.append(
      {
        "short side": short_side,
        # A crop begins anywhere from which it fits: as a share, whatever the short side.
        "crop row": (top + 0.5) / (np.floor(HEIGHT - rows + 0.2) + 1),
        "crop column": (left + 0.5) / (np.floor(WIDTH - columns + 0.2) + 1),
        "mirror": mirrored,
        **colors(shown, noisy, dict(zip(JITTER, jittered, strict=True))),
        "place in the epoch": places(seed),
      }
    )
  return gathered(per_seed)


@pytest.fixture(scope="module")
def inception(folder):
  """Inception's crop, and the mirror."""
  per_seed = []
  for seed in range(SEEDS):
    [shown] = views(open_streamed(folder, seed, "inception"), [], seed)
    rows, columns, top, left, mirrored = geometry(shown)
    per_seed.append(
      {
        "area": rows * columns / (HEIGHT * WIDTH),
        "aspect": np.log(columns / rows),
        "crop row": (top + 0.5) / (HEIGHT - rows + 1),
        "crop column": (left + 0.5) / (WIDTH - columns + 1),
        "mirror": mirrored,
      }
    )
  return gathered(per_seed)


def features(quantities):
  """Each quantity, and how far from its middle it is: two that are equal but for the sign show."""
  found = {}
  for name, values in quantities.items():
    found[name, "value"] = values
    if name != "mirror":
      found[name, "distance"] = np.abs(values - np.median(values))
  return found


def correlations(first, second):
  """The correlation of each feature of the first with each of the second."""
  names = list(first)
  table = np.corrcoef(
    [first[name].ravel() for name in names], [second[name].ravel() for name in names]
  )[: len(names), len(names) :]
  for (i, a), (j, b) in itertools.product(enumerate(names), repeat=2):
    yield a, b, table[i, j]


KINDS = ("resident", "streamed", "inception")


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_quantities_of_a_view_are_correlated(kind, request):
  found = features(request.getfixturevalue(kind))
  wrong = {(a, b): r for a, b, r in correlations(found, found) if a[0] != b[0] and abs(r) > BOUND}
  assert not wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", ["seed", "epoch", "example"])
def test_no_quantity_follows_from_the_view_of_the_next(kind, axis, request):
  found = features(request.getfixturevalue(kind))
  number = ("seed", "epoch", "example").index(axis)
  size = SHAPE[number]
  here = {name: np.take(v, range(size - 1), number) for name, v in found.items()}
  following = {name: np.take(v, range(1, size), number) for name, v in found.items()}
  bound = BOUND * np.sqrt(size / (size - 1))
  wrong = {(a, b): r for a, b, r in correlations(here, following) if abs(r) > bound}
  assert not wrong


UNIFORM = scipy.stats.uniform
# Distribution, and the error of measuring it from pixels of 8 bits.
DISTRIBUTIONS = {
  "resident": {
    "crop row": (scipy.stats.randint(0, 7), 0),
    "crop column": (scipy.stats.randint(0, 7), 0),
    "mirror": (scipy.stats.bernoulli(0.5), 0),
  },
  "streamed": {
    "short side": (scipy.stats.randint(SHORT_SIDES[0], SHORT_SIDES[1] + 1), 0.2),
    "crop row": (UNIFORM(0, 1), 0.02),
    "crop column": (UNIFORM(0, 1), 0.02),
    "mirror": (scipy.stats.bernoulli(0.5), 0),
    **{f"color noise {i + 1}": (scipy.stats.norm(0, 0.1), 0) for i in range(3)},
    "brightness": (UNIFORM(-0.2, 0.4), 0),
    "saturation": (UNIFORM(0.5, 1.0), 0),
    "hue": (UNIFORM(-0.2, 0.4), 0),
    "contrast": (UNIFORM(0.5, 1.0), 0),
  },
  "inception": {
    "area": (UNIFORM(AREA[0], AREA[1] - AREA[0]), 0.005),
    "aspect": (UNIFORM(np.log(ASPECT[0]), np.log(ASPECT[1] / ASPECT[0])), 0.01),
    "crop row": (UNIFORM(0, 1), 0.02),
    "crop column": (UNIFORM(0, 1), 0.02),
    "mirror": (scipy.stats.bernoulli(0.5), 0),
  },
}


@pytest.mark.parametrize(
  ("kind", "name"), [(kind, name) for kind in KINDS for name in DISTRIBUTIONS[kind]]
)
def test_every_quantity_has_the_distribution_that_is_documented(kind, name, request):
  quantities = request.getfixturevalue(kind)
  assert DISTRIBUTIONS[kind].keys() == quantities.keys() - {"place in the epoch"}
  values = quantities[name].ravel()
  distribution, error = DISTRIBUTIONS[kind][name]
  mean, deviation = distribution.mean(), distribution.std()
  assert abs(values.mean() - mean) < 5 * deviation / np.sqrt(DRAWS) + error
  # The standard error of a deviation is at most this for all of them.
  assert abs(values.std() - deviation) < 5 * deviation / np.sqrt(2 * DRAWS) + error
  low, high = distribution.support()
  assert low - 5 * error - 1e-3 <= values.min() <= values.max() <= high + 5 * error + 1e-3
  if not error and name.split(" ")[0] not in ("crop", "mirror"):
    assert scipy.stats.kstest(values, distribution.cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_no_key_is_used_twice(kind, folder):
  """JAX's own check of keys: what draws of a key spends it."""
  if kind == "resident":
    arrays = {"train": (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64))}
    split = resident_dataset("zeros", arrays, "a", DataConfig(mean=(0.0,) * 3)).splits["train"]
  else:
    split = open_streamed(folder, 0, "scale_jitter", 0.1, **JITTER)
  batch = split.fetch(np.zeros(4, np.int32), np.arange(4, dtype=np.int32))
  with jax.debug_key_reuse(True):
    jax.jit(split.view)(split.constants, batch, jax.random.key(0))
