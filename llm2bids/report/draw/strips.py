"""A flat map for narrow screens: one drawing, shown in strips of layers, rows named in each."""

from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from llm2bids.report.draw.flat_layout import flat_layout
from llm2bids.report.draw.svg import drawing, element
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STRIP = 160.0  # points of the map in a strip, about: legible on a telephone beside the rows' names


def flat_strips(figure: "Figure", space: Space, *, name: str, alt: str) -> list[Markup]:
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
    names = _part(0, left - 4, at=0, height=height, name=name)
    return [
        drawing(
            [names, _part(start, stop, at=left - 4, height=height, name=name)],
            width=left - 4 + widest,
            height=height,
            alt=f"{alt} Part {number} of {len(parts)}.",
        )
        for number, (start, stop) in enumerate(parts, start=1)
    ]


def _part(start: float, stop: float, *, at: float, height: float, name: str) -> Markup:
    """Show the drawing `name` between two abscissas."""
    window = f"{start:.2f} 0 {stop - start:.2f} {height:.2f}"
    uses = element("use", href=f"#{name}")
    return element("svg", uses, x=at, width=stop - start, height=height, viewBox=window)
