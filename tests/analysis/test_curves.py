"""Reading runs, naming them, and what the picture of their curves holds."""

import json
import math
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resnet_jax.analysis.curves import draw_curves, render_png
from resnet_jax.analysis.recorded_runs import read_runs, run_labels
from resnet_jax.errors import UserError

CONFIG = {
  "model": {"name": "resnet20", "overrides": {}},
  "optimizer": {"learning_rate": 0.1},
  "seed": 0,
  "length": "30 epochs",
  "log_every": "1 epochs",
}
TRAIN = [(10, 2.0, 0.25), (20, 1.0, 0.5), (30, 0.5, 0.875), (40, 0.25, 0.9375)]
VALIDATION = [(20, 1.5, 0.5), (40, 0.75, 0.875)]


def lines(split: str, values: list[tuple[int, float, float]], rate: float = 0.1) -> list[dict]:
  return [
    {"step": step, "split": split, "loss": loss, "accuracy": accuracy, "learning_rate": rate}
    for step, loss, accuracy in values
  ]


def make_run(
  path: pathlib.Path, records: list[dict] | None = None, tail: str = "", **config: Any
) -> pathlib.Path:
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(CONFIG | config))
  if records is None:
    records = lines("train", TRAIN) + lines("validation", VALIDATION)
  text = "".join(json.dumps(record) + "\n" for record in records)
  (path / "metrics.jsonl").write_text(text + tail)
  return path


def draw(*workdirs: pathlib.Path) -> Figure:
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return draw_curves(read_runs(workdirs))


def render(figure: Figure) -> bytes:
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return render_png(figure)


def curve(figure: Figure, panel: int, name: str) -> Line2D:
  (line,) = [line for line in figure.axes[panel].lines if line.get_gid() == name]
  return line


def legend(figure: Figure) -> list[str]:
  return [text.get_text() for text in figure.legends[0].get_texts()]


def test_error_curves_are_one_minus_accuracy_in_percent_at_each_step(tmp_path):
  figure = draw(make_run(tmp_path / "a"))
  train, validation = curve(figure, 0, "train 0"), curve(figure, 0, "validation 0")
  np.testing.assert_allclose(train.get_xydata(), [(10, 75), (20, 50), (30, 12.5), (40, 6.25)])
  np.testing.assert_allclose(validation.get_xydata(), [(20, 50), (40, 12.5)])


def test_loss_and_learning_rate_curves_hold_the_records(tmp_path):
  records = lines("train", TRAIN[:2], 0.1) + lines("train", TRAIN[2:], 0.01)
  figure = draw(make_run(tmp_path / "a", records))
  np.testing.assert_allclose(curve(figure, 1, "train 0").get_ydata(), [2, 1, 0.5, 0.25])
  rate = curve(figure, 2, "learning rate 0")
  np.testing.assert_allclose(rate.get_ydata(), [0.1, 0.1, 0.01, 0.01])
  # The rate of steps 21 to 30 is that recorded at 30.
  assert rate.get_drawstyle() == "steps-pre"
  assert figure.axes[1].get_yscale() == figure.axes[2].get_yscale() == "log"


def test_validation_is_bold_and_train_dashed_in_the_colour_of_the_run(tmp_path):
  figure = draw(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1))
  colors = set()
  for index in (0, 1):
    train, validation = (curve(figure, 0, f"{s} {index}") for s in ("train", "validation"))
    assert train.get_color() == validation.get_color()
    assert train.get_linewidth() < validation.get_linewidth()
    assert train.is_dashed() and not validation.is_dashed()
    colors.add(train.get_color())
  assert len(colors) == 2


def test_error_axis_starts_at_zero_and_shows_the_second_half_of_every_run(tmp_path):
  late = make_run(tmp_path / "late", lines("validation", [(10, 1, 0.1), (40, 1, 0.66)]))
  early = make_run(tmp_path / "early", lines("validation", [(1, 1, 0.05), (4, 1, 0.55)]))
  assert draw(late).axes[0].get_ylim() == (0, 40)
  assert draw(late, early).axes[0].get_ylim() == (0, 50)


def test_error_axis_reaches_the_error_of_a_run_that_learned_nothing(tmp_path):
  run = make_run(tmp_path / "a", lines("validation", [(10, 2.3, 0.0), (20, 2.3, 0.0)]))
  assert draw(run).axes[0].get_ylim() == (0, 100)


@pytest.mark.parametrize(
  ("last", "unit", "tick"),
  [(600, "iterations", "600"), (9000, "iterations (1e3)", "9"), (64000, "iterations (1e4)", "6.4")],
)
def test_iterations_are_labelled_in_the_unit_that_fits(tmp_path, last, unit, tick):
  figure = draw(make_run(tmp_path / "a", lines("train", [(1, 1, 0.5), (last, 1, 0.5)])))
  axis = figure.axes[0].xaxis
  assert axis.get_label_text() == unit
  assert axis.get_major_formatter()(last, 0) == tick


def test_runs_on_one_schedule_share_one_learning_rate_line_even_if_one_is_shorter(tmp_path):
  longer = make_run(tmp_path / "a", lines("train", TRAIN))
  shorter = make_run(tmp_path / "b", lines("train", TRAIN[:2]), seed=1)
  other = make_run(tmp_path / "c", lines("train", TRAIN, 0.01), seed=2)
  assert len(draw(longer, shorter).axes[2].lines) == 1
  assert len(draw(longer, shorter, other).axes[2].lines) == 3


def test_model_alone_names_runs_that_differ_only_in_it(tmp_path):
  plain = make_run(tmp_path / "a", model={"name": "plain20", "overrides": {}})
  assert legend(draw(make_run(tmp_path / "b"), plain)) == ["resnet20", "plain20"]


def test_fields_in_which_runs_differ_name_them(tmp_path):
  runs = [
    make_run(tmp_path / "a", seed=0),
    make_run(tmp_path / "b", seed=1),
    make_run(tmp_path / "c", seed=0, optimizer={"learning_rate": 0.05}),
  ]
  assert legend(draw(*runs)) == [
    "seed=0, learning_rate=0.1",
    "seed=1, learning_rate=0.1",
    "seed=0, learning_rate=0.05",
  ]


def test_an_override_that_one_run_lacks_is_called_default(tmp_path):
  model = {"name": "resnet20", "overrides": {"shortcut": "B"}}
  runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", model=model)]
  assert run_labels(read_runs(runs)) == ["shortcut=default", "shortcut=B"]


def test_fields_that_a_resumed_run_may_change_name_runs_only_if_nothing_else_does(tmp_path):
  a = make_run(tmp_path / "a")
  b = make_run(tmp_path / "b", length="4 epochs")
  c = make_run(tmp_path / "c", length="4 epochs", seed=1)
  assert run_labels(read_runs([a, b])) == ["length=30 epochs", "length=4 epochs"]
  assert run_labels(read_runs([a, c])) == ["seed=0", "seed=1"]


def test_directories_name_runs_with_one_config_or_alone(tmp_path):
  a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
  assert run_labels(read_runs([a])) == ["a"]
  assert run_labels(read_runs([a, b])) == ["a", "b"]
  again = make_run(tmp_path / "x" / "a")
  assert run_labels(read_runs([a, again])) == [str(a), str(again)]


def test_runs_that_differ_in_many_fields_are_named_by_directory(tmp_path):
  b = make_run(tmp_path / "b", one=1, two=2, three=3, four=4)
  assert run_labels(read_runs([make_run(tmp_path / "a"), b])) == ["a", "b"]


def test_a_config_that_this_version_cannot_parse_is_read_all_the_same(tmp_path):
  runs = [make_run(tmp_path / n, model=n, future={"field": [1, None]}) for n in ("old", "new")]
  assert legend(draw(*runs)) == ["model=old", "model=new"]


@pytest.mark.parametrize("name", ["_hidden", "$x_{", "a$b$c"])
def test_the_legend_shows_a_directory_name_literally(tmp_path, name):
  figure = draw(make_run(tmp_path / name), make_run(tmp_path / "other"))
  render(figure)
  assert legend(figure) == [name, "other"]
  assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def test_the_half_line_of_a_killed_run_is_left_out(tmp_path):
  run = make_run(tmp_path / "a", lines("train", TRAIN), tail='{"step": 50, "split": "train", "lo')
  np.testing.assert_array_equal(curve(draw(run), 0, "train 0").get_xdata(), [10, 20, 30, 40])


def test_a_run_without_validation_has_train_curves_only(tmp_path):
  figure = draw(make_run(tmp_path / "a", lines("train", TRAIN)))
  assert [line.get_gid() for line in figure.axes[0].lines] == ["train 0"]
  strokes = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
  assert strokes == ["train"]


def test_a_single_point_is_visible_as_a_dot(tmp_path):
  line = curve(draw(make_run(tmp_path / "a", lines("train", TRAIN[:1]))), 0, "train 0")
  assert line.get_marker() == "o"
  assert line.get_markevery() == [True]


def test_values_that_are_not_finite_break_the_line_and_isolated_ones_show(tmp_path):
  values = [(1, 1.0, 0.5), (2, math.nan, 0.5), (3, 0.5, 0.5), (4, math.inf, 0.5), (5, 0.25, 0.5)]
  line = curve(draw(make_run(tmp_path / "a", lines("train", values))), 1, "train 0")
  np.testing.assert_array_equal(line.get_ydata(), [1, np.nan, 0.5, np.nan, 0.25])
  assert line.get_markevery() == [True, False, True, False, True]


def test_a_run_whose_values_are_all_not_finite_or_zero_is_drawn(tmp_path):
  values = [(1, math.nan, math.nan), (2, 0.0, math.nan)]
  figure = draw(make_run(tmp_path / "a", lines("train", values, 0.0)))
  assert render(figure).startswith(b"\x89PNG")


def test_twenty_runs_have_twenty_looks_and_a_legend_that_overlaps_no_axes(tmp_path):
  figure = draw(*(make_run(tmp_path / f"run {i}", seed=i) for i in range(20)))
  render(figure)
  handles = figure.legends[0].get_lines()
  assert len({(h.get_color(), h.get_marker()) for h in handles}) == 20
  bottom = figure.legends[0].get_window_extent().y0
  assert all(axes.get_window_extent().y1 < bottom for axes in figure.axes)
  assert figure.legends[0].get_window_extent().x1 < figure.bbox.x1


def test_the_picture_is_1200_pixels_wide(tmp_path):
  png = render(draw(make_run(tmp_path / "a")))
  width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
  assert width == 1200
  assert 400 <= height <= 500


def test_a_run_that_is_given_twice_is_read_once(tmp_path):
  run = make_run(tmp_path / "a")
  assert len(read_runs([run, tmp_path / "." / "a", tmp_path / "a" / ".." / "a"])) == 1


def test_a_directory_that_is_no_run_is_named(tmp_path):
  with pytest.raises(UserError, match=rf"{tmp_path} is not the directory of a run"):
    read_runs([tmp_path])


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_none_is_named(tmp_path, content):
  run = make_run(tmp_path / "a")
  (run / "config.json").write_text(content)
  with pytest.raises(UserError, match=r"a/config\.json"):
    read_runs([run])


def test_a_run_without_records_is_named_with_what_to_do(tmp_path):
  good, empty = make_run(tmp_path / "good"), make_run(tmp_path / "empty", [])
  with pytest.raises(UserError, match=r"empty has recorded nothing yet.*1 epochs.*leave it out"):
    read_runs([good, empty])
  (empty / "metrics.jsonl").unlink()
  with pytest.raises(UserError, match="empty has recorded nothing yet"):
    read_runs([empty])


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
  before = dict(matplotlib.rcParams)
  render(draw(make_run(tmp_path / "a")))
  assert dict(matplotlib.rcParams) == before


def test_the_package_imports_no_matplotlib_and_the_curves_no_pyplot():
  code = (
    "import sys, resnet_jax, resnet_jax.analysis, resnet_jax.cli\n"
    "assert 'matplotlib' not in sys.modules\n"
    "import resnet_jax.analysis.curves\n"
    "assert 'matplotlib.pyplot' not in sys.modules\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
