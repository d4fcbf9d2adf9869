"""A number of many runs against each value in which they differ, in one picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resnet_jax.analysis.curves import COLORS, DPI, FONT_POINTS, INK, WIDTH_INCHES, dress
from resnet_jax.analysis.recorded_runs import format_value

_COLUMNS, _HEIGHT_INCHES = 3, 2.4
_MOST_TICKS, _LONGEST_TICK = 8, 24


def draw_swept(fields: Mapping[str, Sequence[Any]], numbers: Sequence[float], title: str) -> Figure:
  """A dot for each run, and a line through the means of equal values, for each field.

  Args:
    fields: For each field the value of every run (None where it has none).
    numbers: The number of every run; what is not finite is left out.
    title: What the number is.
  """
  columns = min(_COLUMNS, len(fields))
  rows = math.ceil(len(fields) / columns)
  figure = Figure((WIDTH_INCHES, 0.4 + _HEIGHT_INCHES * rows), DPI, layout="constrained")
  figure.set_facecolor("white")
  FigureCanvasAgg(figure)
  heights = np.array(numbers, np.float64)
  first: Axes | None = None
  for index, (field, values) in enumerate(fields.items()):
    axes = figure.add_subplot(rows, columns, index + 1, sharey=first)
    first = first or axes
    places = _place(axes, field, values)
    axes.plot(places, heights, "o", color=COLORS[0], markersize=4, alpha=0.7, gid=field)
    known = np.isfinite(heights)
    distinct = np.unique(places[known])
    means = [heights[known & (places == place)].mean() for place in distinct]
    axes.plot(distinct, means, color=COLORS[0], linewidth=1.0, gid=f"mean {field}")
    dress(axes, title if index % columns == 0 else "")
    axes.set_xlabel(field, fontsize=FONT_POINTS, color=INK, parse_math=False)
  return figure


def _place(axes: Axes, field: str, values: Sequence[Any]) -> np.ndarray:
  """Where each value stands: a number at its own place, others side by side; labels the axis."""
  if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
    places = np.array(values, np.float64)
    distinct = np.unique(places)
    if distinct[0] > 0 and distinct[-1] >= 10 * distinct[0]:
      axes.set_xscale("log")
    if len(distinct) <= _MOST_TICKS:
      axes.set_xticks(distinct, [f"{value:.10g}" for value in distinct])
      axes.minorticks_off()
    return places
  texts = [format_value(value, field) for value in values]
  names = list(dict.fromkeys(texts))
  cut = [n if len(n) <= _LONGEST_TICK else f"{n[: _LONGEST_TICK - 1]}…" for n in names]
  if sum(map(len, cut)) > _LONGEST_TICK:
    axes.set_xticks(range(len(names)), cut, parse_math=False, rotation=30, ha="right")
  else:
    axes.set_xticks(range(len(names)), cut, parse_math=False)
  return np.array([names.index(text) for text in texts], np.float64)
