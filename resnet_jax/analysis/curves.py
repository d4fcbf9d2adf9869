"""The curves of runs in one picture.

Drawn with matplotlib's objects alone: no pyplot, no figure that outlives its caller, no rcParams.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullFormatter

from resnet_jax.analysis.recorded_runs import RecordedRun, run_labels

# Okabe and Ito's colours, told apart by colour-blind readers, less the yellow that white drowns.
# Runs beyond the seventh take the colours again, with markers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("", "o", "s", "^")
INK, _FAINT = "#444444", "#dddddd"
FONT_POINTS = 9.0
# 1200 pixels wide: sharp at the 830 or so that GitHub gives a README, where 9 points are 13 pixels.
WIDTH_INCHES, _HEIGHT_INCHES, DPI = 8.0, 3.0, 150
_SPLITS: Mapping[str, Mapping[str, Any]] = {
  "train": {"linewidth": 0.8, "linestyle": (0, (4, 1.5)), "marker": "", "zorder": 2.0},
  "validation": {"linewidth": 1.8, "linestyle": "-", "zorder": 3.0},
}
_LEGEND: Mapping[str, Any] = {
  "frameon": False,
  "borderpad": 0.0,
  "fontsize": FONT_POINTS,
  "labelcolor": INK,
  "handlelength": 2.2,
  "columnspacing": 1.4,
}
# Where the error's axis may end, in percent, and the distance of its ticks then.
_ERROR_TICKS: Mapping[float, float] = {
  1: 0.2,
  2: 0.5,
  5: 1,
  10: 2,
  15: 5,
  20: 5,
  30: 10,
  40: 10,
  50: 10,
  60: 10,
  80: 20,
  100: 20,
}


def draw_curves(runs: Sequence[RecordedRun]) -> Figure:
  """Error, loss and learning rate of runs against iterations, in the style of the paper's Fig. 6.

  Training thin and dashed, validation bold, a colour for each run; lines break where a value is
  not finite. The error's axis starts at 0 and shows the second half of every run whole; what lies
  above it is of a beginning.
  """
  labels = run_labels(runs)
  columns = max(1, int(WIDTH_INCHES / (0.6 + 0.075 * max(map(len, labels)))))
  rows = math.ceil(len(runs) / columns)
  figure = Figure((WIDTH_INCHES, _HEIGHT_INCHES + 0.2 * rows), DPI, layout="constrained")
  figure.set_facecolor("white")
  FigureCanvasAgg(figure)
  grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(2, 1))
  error = figure.add_subplot(grid[:, 0])
  loss = figure.add_subplot(grid[0, 1], sharex=error)
  rate = figure.add_subplot(grid[1, 1], sharex=error)

  for index, run in enumerate(runs):
    for split, style in _SPLITS.items():
      _plot(error, *run.error(split), index, f"{split} {index}", style)
      steps, losses = run.series(split, "loss")
      _plot(loss, steps, _positive(losses), index, f"{split} {index}", style)
  _plot_learning_rates(rate, runs)

  dress(error, "error (%)")
  dress(loss, "loss (log scale)")
  dress(rate, "learning rate (log scale)")
  _scale_error(error, runs)
  _scale_logarithmically(loss)
  _scale_logarithmically(rate)
  _scale_iterations((error, rate), max(record["step"] for run in runs for record in run.records))
  loss.tick_params(labelbottom=False)
  _add_strokes(error, runs)
  _add_names(figure, labels, columns)
  return figure


def render_png(figure: Figure) -> bytes:
  """A figure as the content of a PNG file."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=DPI)
  return buffer.getvalue()


def dress(axes: Axes, title: str) -> None:
  """A title at the left, faint horizontal lines, no frame."""
  axes.set_title(title, fontsize=FONT_POINTS, color=INK, loc="left")
  axes.grid(axis="y", color=_FAINT, linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(INK)
  axes.tick_params(which="both", labelsize=FONT_POINTS, color=INK, labelcolor=INK)


def _style(index: int) -> dict[str, Any]:
  turn, color = divmod(index, len(COLORS))
  return {"color": COLORS[color], "marker": _MARKERS[turn % len(_MARKERS)]}


def _plot(
  axes: Axes,
  steps: np.ndarray,
  values: np.ndarray,
  index: int,
  identifier: str,
  style: Mapping[str, Any],
) -> None:
  """One line; a value without neighbours, of which no line would show, gets a dot."""
  values = np.where(np.isfinite(values), values, np.nan)
  if np.isnan(values).all():
    return
  drawn = np.pad(np.isfinite(values), 1)
  alone = drawn[1:-1] & ~drawn[:-2] & ~drawn[2:]
  look = _style(index) | dict(style)
  marked = alone.copy()
  if look["marker"]:
    marked[:: max(1, len(marked) // 8)] = True
  look |= {"marker": look["marker"] or "o", "markersize": 4, "markevery": marked.tolist()}
  axes.plot(steps, values, gid=identifier, **look)


def _positive(values: np.ndarray) -> np.ndarray:
  """What a logarithmic axis can show."""
  return np.where(values > 0, values, np.nan)


def _plot_learning_rates(axes: Axes, runs: Sequence[RecordedRun]) -> None:
  """The rates of the runs; where all follow one schedule, that of the longest, in grey."""
  rates = [run.series("train", "learning_rate") for run in runs]
  longest, rate = max(rates, key=lambda series: series[0].max(initial=0))
  shared = all(
    np.array_equal(values, rate[np.searchsorted(longest, steps)]) for steps, values in rates
  )
  # A record holds the rate of the last step before it: so does the line, back to the one before.
  style: dict[str, Any] = {"linewidth": 1.4, "drawstyle": "steps-pre"}
  if shared and len(runs) > 1:
    _plot(axes, longest, _positive(rate), 0, "learning rate", style | {"color": INK})
    return
  for index, (steps, values) in enumerate(rates):
    _plot(axes, steps, _positive(values), index, f"learning rate {index}", style)


def _scale_error(axes: Axes, runs: Sequence[RecordedRun]) -> None:
  """From 0 to above all that the second halves of the runs reach."""
  highest = 0.0
  for run in runs:
    for split in _SPLITS:
      steps, error = run.error(split)
      late = error[np.isfinite(error) & (steps >= steps.max(initial=0) / 2)]
      highest = max(highest, late.max(initial=0))
  limit = min((limit for limit in _ERROR_TICKS if limit > highest), default=100)
  axes.set_ylim(0, limit)
  axes.yaxis.set_major_locator(MultipleLocator(_ERROR_TICKS[limit]))


def _scale_logarithmically(axes: Axes) -> None:
  if not axes.lines:  # Nothing that is positive: no range to put on a logarithmic scale.
    axes.set_yticks([])
    return
  axes.set_yscale("log")
  low, high = axes.get_ylim()
  # Powers of ten alone would leave a short axis without a number.
  subs = (1.0,) if high > 30 * low else (1.0, 2.0, 5.0)
  axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
  axes.yaxis.set_minor_formatter(NullFormatter())


def _scale_iterations(labelled: Sequence[Axes], last: int) -> None:
  """Labels the axes that share their iterations, which end at `last`."""
  power = 4 if last >= 50_000 else 3 if last >= 5_000 else 0
  unit = {0: "iterations", 3: "iterations (1e3)", 4: "iterations (1e4)"}[power]
  axes = labelled[0]
  axes.set_xlim(0, max(last, 1) * 1.02)
  axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True))
  axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step / 10**power:g}"))
  for each in labelled:
    each.set_xlabel(unit, fontsize=FONT_POINTS, color=INK)


def _add_strokes(axes: Axes, runs: Sequence[RecordedRun]) -> None:
  """Which stroke is which split, above the axes."""
  recorded = {record["split"] for run in runs for record in run.records}
  splits = [split for split in _SPLITS if split in recorded]
  axes.legend(
    [Line2D([], [], color=INK, **_SPLITS[split]) for split in splits],
    splits,
    loc="lower right",
    bbox_to_anchor=(1.0, 1.0),
    borderaxespad=0.4,
    ncols=len(_SPLITS),
    **_LEGEND,
  )


def _add_names(figure: Figure, labels: Sequence[str], columns: int) -> None:
  """Which colour is which run, above the picture."""
  legend = figure.legend(
    [Line2D([], [], linewidth=2, markersize=4, **_style(i)) for i in range(len(labels))],
    [str(index) for index in range(len(labels))],
    loc="outside upper left",
    ncols=min(columns, len(labels)),
    borderaxespad=0.5,
    **_LEGEND,
  )
  # Set afterwards: a label is any directory's name, and legend() would skip one that starts with
  # an underscore, and read dollars as mathematics.
  for entry, text in zip(legend.get_texts(), labels, strict=True):
    entry.set_parse_math(False)
    entry.set_text(text)
