"""Charts of lines and of estimates with intervals, drawn by matplotlib for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from llm2bids.report.draw.svg import LABEL, TICK, figure_svg, stand_in
from llm2bids.report.section import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OFFSET = "offset points"

WIDTH = 470.0  # points of a chart: it is drawn about as wide as that many pixels
_INK, _MUTE, _RULE = (stand_in(f"var(--{name})") for name in ("ink", "mute", "rule"))


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart: a NaN in `y` parts it; `low` and `high` are a band around it."""

    x: npt.ArrayLike
    y: npt.ArrayLike
    color: str  # a style variable, e.g. "var(--c0)"
    dashed: bool = False
    low: npt.ArrayLike | None = None
    high: npt.ArrayLike | None = None
    is_cloud: bool = False  # points that no line joins


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    x_ticks: Mapping[float, str] | None = None,
    y_range: tuple[float, float] | None = None,
    references: Mapping[str, float] | None = None,
    height: float = 230.0,
) -> Markup:
    """Draw lines over a common axis, with horizontal lines of reference by label."""
    figure, axes = _axes(height, left=58, right=12, top=14, bottom=44)
    for line in lines:
        color = stand_in(line.color)
        dashes, mark = (0, (2.5, 2)) if line.dashed else "-", "o" if np.size(line.x) <= 16 else ""
        style: dict[str, Any] = {"lw": 2, "ms": 6, "mew": 0, "solid_joinstyle": "round"}
        if line.is_cloud:
            dashes, mark, style = "none", "o", {"ms": 4, "mew": 0, "alpha": 0.35}
        axes.plot(line.x, line.y, color=color, ls=dashes, marker=mark, **style)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.14, lw=0)
    for label, value in (references or {}).items():
        axes.axhline(value, color=_INK, lw=1, ls=(0, (2, 3)), zorder=1.5)
        above: dict[str, Any] = {"ha": "right", "fontsize": TICK, "color": _MUTE}
        axes.annotate(label, (1, value), (0, 5), axes.get_yaxis_transform(), _OFFSET, **above)
    axes.margins(0.015, 0.06)
    axes.set_ylim(y_range)
    axes.grid(axis="y", color=_RULE, lw=1)
    axes.tick_params("x", length=4, color=_MUTE)
    axes.locator_params(axis="y", nbins=5)
    _write_ticks(axes, x_ticks)
    axes.set_xlabel(x_label, fontsize=TICK, color=_MUTE, labelpad=6)
    axes.set_ylabel(y_label, fontsize=TICK, color=_MUTE)
    axes.yaxis.set_label_coords(-46 / (WIDTH - 70), 0.5)
    return figure_svg(figure, alt=alt)


def interval_chart(table: pd.DataFrame, *, x_label: str, alt: str) -> Markup:
    """Draw an estimate a row of ``name``, ``value``, ``low``, ``high`` (NaN: none), ``color``.

    0 to 1 are always shown.
    """
    step, left, right, top = 26.0, 128.0, 64.0, 22.0
    height = top + step * len(table) + 44
    figure, axes = _axes(height, left=left, right=right, top=top - 8, bottom=44)
    middle = axes.get_yaxis_transform()
    for y, row in enumerate(table.to_dict("records")):
        color = stand_in(row["color"])
        bar: dict[str, Any] = {"lw": 3, "alpha": 0.55, "solid_capstyle": "round"}
        axes.plot([row["low"], row["high"]], [y, y], color=color, **bar)
        axes.plot([row["value"]], [y], "o", color=color, ms=10, mew=0)
        style: dict[str, Any] = {"fontsize": LABEL, "color": _INK}
        axes.annotate(row["name"], (0, y), (-12, -4), middle, _OFFSET, ha="right", **style)
        axes.annotate(number(row["value"]), (1, y), (16, -4), middle, _OFFSET, **style)
    bounds = table[["low", "high", "value"]].to_numpy(dtype=np.float64)
    axes.set_xlim(min(np.nanmin(bounds), 0.0), max(np.nanmax(bounds), 1.0))
    axes.set_ylim(len(table) - 0.5, -0.5 - 8 / step)
    axes.set_yticks([])
    axes.grid(axis="x", color=_RULE, lw=1)
    axes.locator_params(axis="x", nbins=6)
    _write_ticks(axes)
    axes.set_xlabel(x_label, fontsize=TICK, color=_MUTE, labelpad=6)
    return figure_svg(figure, alt=alt)


def _axes(
    height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72))
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=8, labelsize=TICK, labelcolor=_MUTE)
    return figure, axes


def _write_ticks(axes: "Axes", x_ticks: Mapping[float, str] | None = None) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    for artist in (*axes.lines, *axes.get_xgridlines(), *axes.get_ygridlines()):
        artist.set_clip_on(False)  # half of a line at the edge would be cut off
    if x_ticks:
        axes.set_xticks(list(x_ticks), list(x_ticks.values()))
