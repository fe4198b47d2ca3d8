"""Flat maps as a matplotlib figure: for a light or dark page, or for a page that is either."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.color import Theme, flat_limit, register_colormaps
from llm2bids.report.draw.flat_layout import FlatLayout, flat_layout
from llm2bids.report.draw.svg import figure_svg, stand_in
from llm2bids.report.section import render
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches of a figure, as wide as a page's text; small models take less

LEAST_DPI = 200  # pixels to an inch, at least: the number is raised until a unit fills whole pixels

LARGEST_UNIT = 0.03  # inches of a unit, at most

SMALL, PLAIN, LARGE = 5.4, 6.6, 10.5  # sizes of type, in points

LEFT, RIGHT, TOP, BOTTOM = 1.42, 0.2, 0.56, 0.14  # margins in inches

_STRIP = 160.0  # points of the map in a strip, about: legible on a telephone beside the rows' names

# Type faces, the first one that is there; the last one comes with matplotlib
FONTS = (
    *("Inter", "Source Sans 3", "Helvetica Neue", "Helvetica", "Arial"),
    *("Liberation Sans", "DejaVu Sans"),
)


class _Palette(NamedTuple):
    """Colours of a page."""

    page: str
    panel: str  # without values
    edge: str  # of a panel
    ink: str  # titles and names of roles
    mute: str  # all that is said in passing
    accent: str  # the residual stream


PALETTES: dict[Theme, _Palette] = {
    "light": _Palette("#fbfaf7", "#efede8", "#d5d1c7", "#1d2126", "#747b84", "#2c7a64"),
    "dark": _Palette("#121519", "#22262b", "#363c43", "#eae8e3", "#8d959e", "#6cc5a6"),
}

_VARIABLES = ("flat-panel", "flat-edge", "ink", "mute", "stream")
# Of a drawing in the report, where the style sheet chooses between light and dark
STYLED = _Palette("none", *(stand_in(f"var(--{variable})") for variable in _VARIABLES))


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatMap:
    """One map of a figure; `values` are (n_units,), NaN where nothing is shown."""

    space: Space
    values: npt.NDArray[np.float64]
    label: str  # stands above it; may be empty


@dataclass(frozen=True, kw_only=True)
class ColorScale:
    """How values become colours."""

    cmap: Any
    vmin: float
    vmax: float
    threshold: float | None = None  # absolute values up to it are not shown
    bar: tuple[float, float] = (0.0, 1.0)  # what of the scale the colour bar shows
    clipped: tuple[bool, bool] = (False, False)  # whether values go on below and above the bar
    label: str = ""  # what the values are, with their unit


def flat_figure(
    maps: Sequence[FlatMap],
    scale: ColorScale,
    *,
    title: str = "",
    note: str = "",
    theme: Theme | None = None,
) -> "Figure":
    """Draw flat maps below one another, so that their layers line up.

    Without a theme the figure is for `llm2bids.report.draw.svg.figure_svg`: without heading and
    colour bar, and with the values in the colours of both pages. Its dpi is such that a unit fills
    whole pixels; pyplot does not know it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = max(flat_layout(flat.space).width for flat in maps)
    unit = min((WIDTH - LEFT - RIGHT) / columns, LARGEST_UNIT)
    dpi = math.ceil(LEAST_DPI * unit - 1e-9) / unit
    pitch = math.ceil(1.22 * PLAIN / 72 / unit)
    layouts = [flat_layout(flat.space, least_pitch=pitch) for flat in maps]

    def pixels(inches: float) -> float:
        return round(inches * dpi) / dpi

    heading = 0.2 if any(flat.label for flat in maps) else 0.06
    tops, used = [], TOP if title or note else TOP - 0.12
    if theme is None:
        used = 0.04
    for layout in layouts:
        tops.append(pixels(used + heading))
        used = tops[-1] + layout.height * unit + 0.34
    width = pixels(LEFT + max(columns * unit, 2.6) + RIGHT)
    height = pixels(used - 0.1 + (BOTTOM if theme else 0.0))
    palette = PALETTES[theme] if theme else STYLED
    with rc_context({"font.family": _font_name()}):
        figure = Figure(figsize=(width, height), dpi=dpi, facecolor=palette.page)
        for flat, layout, top in zip(maps, layouts, tops, strict=True):
            box = (pixels(LEFT), height - top - layout.height * unit)
            size = (layout.width * unit, layout.height * unit)
            axes = figure.add_axes(
                (box[0] / width, box[1] / height, size[0] / width, size[1] / height)
            )
            pen = _Pen(axes=axes, palette=palette, unit=unit)
            _draw_map(pen, flat, layout, scale, themes=() if theme else ("light", "dark"))
        if theme:
            _draw_heading(figure, title, note, palette)
            _draw_color_bar(figure, scale, palette)
    return figure


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pen:
    """Axes in units from the top left, and what to draw with: colours, inches of a unit."""

    axes: "Axes"
    palette: _Palette
    unit: float

    def inches(self, size: float) -> float:
        """Give a length in units."""
        return size / self.unit

    def write(self, text: str, x: float, y: float, **style: Any) -> None:
        """Write text at a place in units."""
        given: dict[str, Any] = {"color": self.palette.ink, "fontsize": PLAIN}
        self.axes.text(x, y, text, clip_on=False, **(given | style))


def _font_name() -> str:
    """Choose the first of `FONTS` that matplotlib finds on this machine."""
    from matplotlib.font_manager import fontManager

    there = {entry.name for entry in fontManager.ttflist}
    return next((name for name in FONTS if name in there), FONTS[-1])


def _draw_map(
    pen: _Pen, flat: FlatMap, layout: FlatLayout, scale: ColorScale, *, themes: Sequence[Theme]
) -> None:
    """Draw one map with its labels; with themes, its values once in the colours of each page."""
    axes = pen.axes
    axes.set_xlim(0, layout.width)
    axes.set_ylim(layout.height, 0)
    axes.axis("off")
    _stream(pen, layout)
    _panels(pen, layout)
    grid = np.full((layout.height, layout.width), np.nan)
    shown = shown_units(flat.values, scale.threshold)
    x, y = layout.at[shown].T
    grid[y, x] = np.clip(flat.values[shown], scale.vmin, scale.vmax)
    for theme in themes or (None,):
        axes.imshow(
            grid,
            cmap=f"{scale.cmap}_dark" if theme == "dark" else scale.cmap,
            vmin=scale.vmin,
            vmax=scale.vmax,
            extent=(0, layout.width, layout.height, 0),
            interpolation="none" if theme else "nearest",  # "none" stores a pixel a unit
            aspect="auto",
            zorder=3,
            gid=theme and f"{theme}-page",
        )
    _row_labels(pen, layout)
    _column_labels(pen, layout)
    if flat.label:
        pen.write(flat.label, 0, -pen.inches(0.1), fontsize=PLAIN + 0.8, weight="bold", va="bottom")


def shown_units(values: npt.NDArray[np.float64], threshold: float | None) -> npt.NDArray[np.bool_]:
    """Tell which units a threshold leaves: those with a number whose size is above it."""
    there = ~np.isnan(values)
    return there if threshold is None else there & (np.abs(values) > threshold)


def _stream(pen: _Pen, layout: FlatLayout) -> None:
    """Draw the residual stream as a thread through its panels, with its direction."""
    if layout.midline < 0:
        return
    row = layout.rows[layout.midline]
    y, head = row.top + row.height / 2, pen.inches(0.1)
    shape = "-|>,head_length=0.28,head_width=0.11"
    line = {"color": pen.palette.accent, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    tip, tail = (layout.width + head, y), (-head / 2, y)
    style: dict[str, Any] = {"arrowprops": {"arrowstyle": shape, **line}, "zorder": 1}
    pen.axes.annotate("", tip, tail, annotation_clip=False, **style)


def _panels(pen: _Pen, layout: FlatLayout) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [
        Rectangle((box.left - 0.5, box.top - 0.5), box.width + 1, box.height + 1)
        for box in layout.panels
    ]
    panel, edge = pen.palette.panel, pen.palette.edge
    style: dict[str, Any] = {"facecolor": panel, "edgecolor": edge, "linewidth": 0.3}
    pen.axes.add_collection(PatchCollection(boxes, zorder=2, clip_on=False, **style))


def _row_labels(pen: _Pen, layout: FlatLayout) -> None:
    """Name roles at the left, and their groups with a bracket."""
    for number, row in enumerate(layout.rows):
        color = pen.palette.accent if number == layout.midline else pen.palette.ink
        y = row.top + row.height / 2
        pen.write(row.name, -pen.inches(0.09), y, ha="right", va="center_baseline", color=color)
    for group in dict.fromkeys(row.group for row in layout.rows if row.group):
        inside = [row for row in layout.rows if row.group == group]
        top, bottom = inside[0].top, inside[-1].top + inside[-1].height
        x = -pen.inches(LEFT - 0.3)
        pen.axes.plot([x, x], [top, bottom], color=pen.palette.edge, linewidth=0.6, clip_on=False)
        upright = {"ha": "right", "va": "center", "rotation": 90, "color": pen.palette.mute}
        pen.write(group, x - pen.inches(0.05), (top + bottom) / 2, **upright)


def _column_labels(pen: _Pen, layout: FlatLayout) -> None:
    """Write layers' numbers below, and upright names of what lies before and after them."""
    below = layout.height + pen.inches(0.05)
    layers = [column for column in layout.columns if column.is_layer]
    roomy = layers and layers[0].width * pen.unit > 0.13
    for number, column in enumerate(layers):
        middle = column.left + column.width / 2
        fifth = int(column.label) % 5 == 0 or number == len(layers) - 1
        if fifth or roomy:
            size, color = (PLAIN, pen.palette.ink) if fifth else (SMALL, pen.palette.mute)
            pen.write(
                column.label, middle, below, ha="center", va="top", fontsize=size, color=color
            )
    if layers:
        pen.write("layer", -pen.inches(0.09), below, ha="right", va="top", color=pen.palette.mute)
    if layout.midline < 0:
        return
    top = layout.rows[layout.midline].top - pen.inches(0.06)
    for column in layout.columns:
        if not column.is_layer:
            upright = {"ha": "center", "va": "bottom", "rotation": 90, "color": pen.palette.accent}
            pen.write(column.label, column.left + column.width / 2, top, **upright)


def _draw_heading(figure: "Figure", title: str, note: str, palette: _Palette) -> None:
    """Write title and note at the top left."""
    width, height = figure.get_size_inches()
    left = 0.16 / width
    if title:
        style: dict[str, Any] = {"color": palette.ink, "fontsize": LARGE, "weight": "bold"}
        figure.text(left, 1 - 0.17 / height, title, va="top", **style)
    if note:
        top = 1 - (0.4 if title else 0.2) / height
        figure.text(left, top, note, color=palette.mute, va="top", fontsize=PLAIN)


def _draw_color_bar(figure: "Figure", scale: ColorScale, palette: _Palette) -> None:
    """Draw the colour bar at the top right: what is hidden is empty, ends say what they clip."""
    width, height = figure.get_size_inches()
    long, thick = 1.75, 0.075
    axes = figure.add_axes(
        ((width - RIGHT - long) / width, 1 - 0.3 / height, long / width, thick / height)
    )
    low, high = scale.bar
    values = np.linspace(low, high, 1024)
    values[~shown_units(values, scale.threshold)] = np.nan
    style: dict[str, Any] = {"cmap": scale.cmap, "vmin": scale.vmin, "vmax": scale.vmax}
    axes.set_facecolor(palette.panel)
    axes.imshow(values[np.newaxis], extent=(low, high, 0, 1), aspect="auto", **style)
    axes.set_yticks([])
    axes.spines[:].set(color=palette.edge, linewidth=0.4)
    ticks = bar_ticks(scale)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(
        length=2, width=0.4, pad=1.5, labelsize=SMALL, color=palette.mute, labelcolor=palette.mute
    )
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_title(scale.label, loc="right", fontsize=PLAIN, color=palette.ink, pad=2.5)


def bar_ticks(scale: ColorScale) -> dict[float, str]:
    """Label the ends of a colour bar, and the threshold, or zero without one."""
    low, high = scale.bar
    middle = (-scale.threshold, scale.threshold) if scale.threshold else (0.0,)
    ticks = {low: ("≤ " if scale.clipped[0] else "") + _three_digits(low)}
    room = 0.12 * (high - low)
    ticks |= {tick: _three_digits(tick) for tick in middle if low + room < tick < high - room}
    ticks[high] = ("≥ " if scale.clipped[1] else "") + _three_digits(high)
    return ticks


def _three_digits(value: float) -> str:
    """Write a number with three digits and a true minus sign.

    >>> _three_digits(-3.1), _three_digits(0.01234), _three_digits(0)
    ('−3.1', '0.0123', '0')
    """
    return f"{value:.3g}".replace("-", "−")


def flat_drawing(
    space: Space, values: npt.NDArray[np.float64], *, name: str, alt: str
) -> tuple[Markup, list[Markup]]:
    """Draw values, (n_units,), in the colours of both pages: whole, and in strips of layers."""
    register_colormaps()
    limit = flat_limit(values)
    scale = ColorScale(cmap="llm2bids", vmin=-limit, vmax=limit)
    figure = flat_figure([FlatMap(space=space, values=values, label="")], scale)
    strips = _strips(figure, space, name=name, alt=alt)
    return figure_svg(figure, alt=alt, name=name), strips


def _strips(figure: "Figure", space: Space, *, name: str, alt: str) -> list[Markup]:
    """Cut the drawing `name` of a figure of one flat map between layers; none where it is narrow.

    Strips show parts of the drawing that is on the page already (SVG's ``use``).
    """
    width, height = (float(inches) * 72 for inches in figure.get_size_inches())
    box = figure.axes[0].get_position()
    layout = flat_layout(space)
    left, unit = float(box.x0) * width, float(box.width) * width / layout.width
    gaps = [column.left - 1.5 for column in layout.columns if column.is_layer][1:]
    n_strips = round(layout.width * unit / _STRIP)
    if n_strips < 2 or len(gaps) < n_strips:
        return []
    aims = [layout.width * number / n_strips for number in range(1, n_strips)]
    cuts = [left + unit * min(gaps, key=lambda gap: abs(gap - aim)) for aim in aims]
    edges = [left - 4, *dict.fromkeys(cuts), width]
    parts = list(pairwise(edges))
    widest = max(stop - start for start, stop in parts)
    names = (0.0, left - 4, 0.0)  # of the rows
    return [
        render(
            "strip.svg",
            parts=[names, (start, stop, left - 4)],
            name=name,
            width=left - 4 + widest,
            height=height,
            alt=f"{alt} Part {number} of {len(parts)}.",
        )
        for number, (start, stop) in enumerate(parts, start=1)
    ]
