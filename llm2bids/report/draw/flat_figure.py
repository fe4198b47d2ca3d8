"""Flat maps as a matplotlib figure: for a light or dark page, or for a page that is either."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llm2bids.report.draw.color import Theme
from llm2bids.report.draw.flat_layout import FlatLayout, flat_layout, map_width
from llm2bids.report.draw.svg import stand_in
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0
"""Inches of a figure, as wide as a page's text; small models take less."""

LEAST_DPI = 200
"""Pixels to an inch, at least: the number is raised until a unit fills whole pixels."""

LARGEST_UNIT = 0.03
"""Inches of a unit, at most."""

SMALL, PLAIN, LARGE = 5.4, 6.6, 10.5
"""Sizes of type, in points."""

LEFT, RIGHT, TOP, BOTTOM = 1.42, 0.2, 0.56, 0.14
"""Margins in inches."""

FONTS = (
    *("Inter", "Source Sans 3", "Helvetica Neue", "Helvetica", "Arial"),
    *("Liberation Sans", "DejaVu Sans"),
)
"""Type faces, the first one that is there; the last one comes with matplotlib."""


@dataclass(frozen=True, kw_only=True)
class _Palette:
    """Colours of a page, and the end of the names of its colour maps."""

    page: str
    panel: str  # without values
    edge: str  # of a panel
    ink: str  # titles and names of roles
    mute: str  # all that is said in passing
    accent: str  # the residual stream


PALETTES: dict[Theme, _Palette] = {
    "light": _Palette(
        page="#fbfaf7",
        panel="#efede8",
        edge="#d5d1c7",
        ink="#1d2126",
        mute="#747b84",
        accent="#2c7a64",
    ),
    "dark": _Palette(
        page="#121519",
        panel="#22262b",
        edge="#363c43",
        ink="#eae8e3",
        mute="#8d959e",
        accent="#6cc5a6",
    ),
}

STYLED = _Palette(
    page="none",
    **{
        name: stand_in(f"var(--{variable})")
        for name, variable in {
            "panel": "flat-panel",
            "edge": "flat-edge",
            "ink": "ink",
            "mute": "mute",
            "accent": "stream",
        }.items()
    },
)
"""Of a drawing in the report, where the style sheet chooses between light and dark."""


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
    bar: tuple[float, float]  # what of the scale the colour bar shows
    threshold: float | None  # absolute values up to it are not shown
    clipped: tuple[bool, bool]  # whether values go on below `vmin`, above `vmax`
    label: str  # what the values are, with their unit


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
    from matplotlib.figure import Figure

    columns = max(map_width(flat.space) for flat in maps)
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
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=palette.page)
    for flat, layout, top in zip(maps, layouts, tops, strict=True):
        box = (pixels(LEFT), height - top - layout.height * unit)
        size = (layout.width * unit, layout.height * unit)
        axes = figure.add_axes((box[0] / width, box[1] / height, size[0] / width, size[1] / height))
        pen = _Pen(axes=axes, palette=palette, unit=unit, font=_font_name())
        _draw_map(pen, flat, layout, scale, themes=() if theme else ("light", "dark"))
    if theme:
        _draw_heading(figure, title, note, palette)
        _draw_color_bar(figure, scale, palette)
    return figure


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pen:
    """Axes in units from the top left, and what to draw with: inches of a unit, type face."""

    axes: "Axes"
    palette: _Palette
    unit: float
    font: str

    def inches(self, size: float) -> float:
        """Give a length in units."""
        return size / self.unit

    def write(self, text: str, x: float, y: float, **style: Any) -> None:
        """Write text at a place in units."""
        given: dict[str, Any] = {"color": self.palette.ink, "fontsize": PLAIN}
        self.axes.text(x, y, text, family=self.font, clip_on=False, **(given | style))


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
    for theme in themes or (None,):
        cmap = f"{scale.cmap}_dark" if theme == "dark" else scale.cmap
        axes.imshow(
            _unit_colors(layout, flat.values, replace(scale, cmap=cmap)),
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


def _unit_colors(
    layout: FlatLayout, values: npt.NDArray[np.float64], scale: ColorScale
) -> npt.NDArray[np.uint8]:
    """Colour the units that are shown: (height, width, 4), transparent elsewhere."""
    from matplotlib import colormaps

    cmap = colormaps[scale.cmap] if isinstance(scale.cmap, str) else scale.cmap
    shown = shown_units(values, scale.threshold)
    within = np.clip(values[shown], scale.vmin, scale.vmax)
    colors = cmap((within - scale.vmin) / (scale.vmax - scale.vmin), bytes=True)
    image = np.zeros((layout.height, layout.width, 4), dtype=np.uint8)
    x, y = layout.at[shown].T
    image[y, x] = colors
    return image


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
    pen.axes.annotate(
        "",
        (layout.width + head, y),
        (-head / 2, y),
        arrowprops={
            "arrowstyle": "-|>,head_length=0.28,head_width=0.11",
            "color": pen.palette.accent,
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        annotation_clip=False,
        zorder=1,
    )


def _panels(pen: _Pen, layout: FlatLayout) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [
        Rectangle((box.left - 0.5, box.top - 0.5), box.width + 1, box.height + 1)
        for box in layout.panels
    ]
    panels = PatchCollection(
        boxes, facecolor=pen.palette.panel, edgecolor=pen.palette.edge, linewidth=0.3, zorder=2
    )
    panels.set_clip_on(False)
    pen.axes.add_collection(panels)


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
    font = _font_name()
    left = 0.16 / width
    style: dict[str, Any] = {"family": font, "va": "top"}
    if title:
        top = 1 - 0.17 / height
        figure.text(left, top, title, color=palette.ink, fontsize=LARGE, weight="bold", **style)
    if note:
        top = 1 - (0.4 if title else 0.2) / height
        figure.text(left, top, note, color=palette.mute, fontsize=PLAIN, **style)


def _draw_color_bar(figure: "Figure", scale: ColorScale, palette: _Palette) -> None:
    """Draw the colour bar at the top right: what is hidden is empty, ends say what they clip."""
    from matplotlib import colormaps

    width, height = figure.get_size_inches()
    font, long, thick = _font_name(), 1.75, 0.075
    axes = figure.add_axes(
        ((width - RIGHT - long) / width, 1 - 0.3 / height, long / width, thick / height)
    )
    low, high = scale.bar
    values = np.linspace(low, high, 1024)
    cmap = colormaps[scale.cmap] if isinstance(scale.cmap, str) else scale.cmap
    colors = cmap((values - scale.vmin) / (scale.vmax - scale.vmin))
    colors[~shown_units(values, scale.threshold)] = (0, 0, 0, 0)
    axes.set_facecolor(palette.panel)
    axes.imshow(colors[np.newaxis], extent=(low, high, 0, 1), aspect="auto")
    axes.set_yticks([])
    axes.spines[:].set(color=palette.edge, linewidth=0.4)
    ticks = bar_ticks(scale)
    axes.set_xticks(list(ticks), list(ticks.values()), family=font)
    axes.tick_params(
        length=2, width=0.4, pad=1.5, labelsize=SMALL, color=palette.mute, labelcolor=palette.mute
    )
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_title(
        scale.label, loc="right", family=font, fontsize=PLAIN, color=palette.ink, pad=2.5
    )


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
