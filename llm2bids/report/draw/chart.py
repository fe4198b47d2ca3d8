"""Charts of lines and of estimates with intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from llm2bids.report.draw.svg import element, figure
from llm2bids.report.section import number

WIDTH = 470.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 14.0, 44.0

Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart.

    Parameters
    ----------
    name : str
        What it shows.
    x, y : sequence of float
        Points; a NaN parts the line.
    color : str
        Colour, e.g. ``"var(--c0)"``.
    dashed : bool
        Draw dashes.
    low, high : sequence of float, optional
        Band around it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    dashed: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One row of `interval_chart`.

    Parameters
    ----------
    name : str
        Label.
    value, low, high : float
        Estimate and interval; NaN where there is none.
    color : str
        Colour.
    """

    name: str
    value: float
    low: float
    high: float
    color: str


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
    """Draw lines over a common axis.

    Parameters
    ----------
    lines : sequence of Line
        At least one point altogether.
    x_label, y_label : str
        What the axes show, with units.
    alt : str
        What the chart shows.
    x_ticks : mapping of float to str, optional
        Places and labels; round numbers by default.
    y_range : tuple of float, optional
        Limits; those of the data by default.
    references : mapping of str to float, optional
        Horizontal lines by label.
    height : float
        Of the drawing.

    Returns
    -------
    Markup
        The drawing.
    """
    xs = _finite([value for line in lines for value in line.x])
    ys = _finite([value for line in lines for part in (line.y, line.low, line.high)
                  for value in part or ()] + list((references or {}).values()))  # fmt: skip
    low, high = y_range or _widened(min(ys), max(ys))
    x = _scale(*_widened(min(xs), max(xs), 0.015), LEFT, WIDTH - RIGHT)
    y = _scale(low, high, height - BOTTOM, TOP)
    parts = [*_y_axis(low, high, y, y_label, height)]
    places = x_ticks or {tick: _number(tick) for tick in round_ticks(min(xs), max(xs))}
    for place, label in places.items():
        at = x(place)
        parts.append(element("line", x1=at, x2=at, y1=height - BOTTOM, y2=height - BOTTOM + 4,
                             class_="axis"))  # fmt: skip
        parts.append(element("text", label, x=at, y=height - BOTTOM + 18, class_="tick mid"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(element("text", x_label, x=middle, y=height - 6, class_="tick mid"))
    for label, value in (references or {}).items():
        parts.append(
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(value), y2=y(value), class_="ref")
        )
        parts.append(element("text", label, x=WIDTH - RIGHT, y=y(value) - 5, class_="tick end"))
    for line in lines:
        parts += _line(line, x, y)
    return figure(parts, width=WIDTH, height=height, alt=alt)


def interval_chart(
    rows: Sequence[Estimate],
    *,
    x_label: str,
    alt: str,
    x_range: tuple[float, float] = (0.0, 1.0),
    references: Mapping[str, float] | None = None,
) -> Markup:
    """Draw one estimate a row, with its interval.

    Parameters
    ----------
    rows : sequence of Estimate
        From top to bottom.
    x_label : str
        What the axis shows.
    alt : str
        What the chart shows.
    x_range : tuple of float
        Limits of the axis; widened to hold all rows.
    references : mapping of str to float, optional
        Vertical lines by label.

    Returns
    -------
    Markup
        The drawing.
    """
    step, left = 26.0, 128.0
    ends = _finite([value for row in rows for value in (row.value, row.low, row.high)])
    low, high = min([x_range[0], *ends]), max([x_range[1], *ends])
    x = _scale(low, high, left, WIDTH - 64)
    bottom = TOP + 8 + step * len(rows)
    parts = []
    for tick in round_ticks(low, high):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=TOP, y2=bottom, class_="rule"))
        parts.append(element("text", _number(tick), x=x(tick), y=bottom + 16, class_="tick mid"))
    for label, value in (references or {}).items():
        parts.append(element("line", x1=x(value), x2=x(value), y1=TOP, y2=bottom, class_="ref"))
        parts.append(element("text", label, x=x(value), y=TOP - 3, class_="tick mid"))
    for index, row in enumerate(rows):
        at = TOP + 8 + step * (index + 0.5)
        parts.append(element("text", row.name, x=left - 12, y=at + 4, class_="label end"))
        if math.isfinite(row.low) and math.isfinite(row.high):
            parts.append(element("line", x1=x(row.low), x2=x(row.high), y1=at, y2=at,
                                 stroke=row.color, stroke_width=3, stroke_opacity=0.55,
                                 stroke_linecap="round"))  # fmt: skip
        if math.isfinite(row.value):
            parts.append(element("circle", cx=x(row.value), cy=at, r=5, fill=row.color))
            parts.append(element("text", number(row.value), x=WIDTH - 48, y=at + 4, class_="label"))
    middle = (left + WIDTH - 64) / 2
    parts.append(element("text", x_label, x=middle, y=bottom + 36, class_="tick mid"))
    return figure(parts, width=WIDTH, height=bottom + 44, alt=alt)


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers within limits.

    Parameters
    ----------
    low, high : float
        Limits.
    most : int
        Largest number of ticks, about.

    Returns
    -------
    list of float
        Multiples of 1, 2 or 5 times a power of ten.

    Examples
    --------
    >>> round_ticks(0.0, 1.0), round_ticks(3, 29)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [5.0, 10.0, 15.0, 20.0, 25.0])
    """
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * n, 10) + 0.0 for n in range(first, last + 1)]


def _line(line: Line, x: Scale, y: Scale) -> list[Markup]:
    parts = []
    if line.low is not None and line.high is not None:
        forth = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.high, strict=True)]
        back = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.low, strict=True)]
        points = " ".join([*forth, *reversed(back)])
        parts.append(element("polygon", points=points, fill=line.color, fill_opacity=0.14))
    path, drawing = [], False
    for a, b in zip(line.x, line.y, strict=True):
        if math.isfinite(b):
            path.append(f"{'L' if drawing else 'M'}{x(a):.1f},{y(b):.1f}")
        drawing = math.isfinite(b)
    dashes = "5 4" if line.dashed else None
    parts.append(
        element("path", element("title", line.name), d=" ".join(path), stroke=line.color,
                class_="line", stroke_dasharray=dashes)
    )  # fmt: skip
    if len(line.x) <= 16:
        parts += [
            element("circle", cx=x(a), cy=y(b), r=3, fill=line.color)
            for a, b in zip(line.x, line.y, strict=True)
            if math.isfinite(b)
        ]
    return parts


def _y_axis(low: float, high: float, y: Scale, label: str, height: float) -> list[Markup]:
    parts = []
    for tick in round_ticks(low, high, 5):
        parts.append(
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="rule")
        )
        parts.append(element("text", _number(tick), x=LEFT - 8, y=y(tick) + 4, class_="tick end"))
    middle = (TOP + height - BOTTOM) / 2
    turned = f"rotate(-90 12 {middle:.1f})"
    parts.append(element("text", label, x=12, y=middle, transform=turned, class_="tick mid"))
    return parts


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def _widened(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    margin = (high - low) * share or 0.5
    return low - margin, high + margin


def _finite(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if np.isfinite(value)] or [0.0]


def _number(value: float) -> str:
    return (f"{value:g}" if abs(value) < 10000 else f"{value:,.0f}").replace("-", "−")
