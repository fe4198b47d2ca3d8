"""Flat maps as a drawing of the page: it follows the page into dark mode."""

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.colormap import Theme, map_colors
from llm2bids.report.draw.flat_layout import FlatLayout
from llm2bids.report.draw.png import data_address, palette_png
from llm2bids.report.draw.svg import element, figure

LEFT, RIGHT, ABOVE, BELOW = 290.0, 34.0, 14.0, 40.0
"""Margins in units, with room for the names of roles."""

TYPE = 19.0
"""Size of the type in units, as in the style sheet."""

ROW_PITCH = 23
"""Least units from row to row, so that names do not touch."""

SCALES: dict[Theme, str] = {"light": "llm2bids", "dark": "llm2bids_dark"}
"""Colour map of each page."""


def flat_svg(
    layout: FlatLayout, values: npt.NDArray[np.floating], *, limit: float, alt: str
) -> Markup:
    """Draw a flat map.

    Parameters
    ----------
    layout : FlatLayout
        Where each unit lies; made with a `least_pitch` of `ROW_PITCH`.
    values : ndarray of float, shape (n_units,)
        NaN where nothing is shown.
    limit : float
        Absolute value of full colour; larger ones are clipped.
    alt : str
        What the map shows.

    Returns
    -------
    Markup
        The drawing, with the values once in the colours of each page; the style sheet shows one.
    """
    indices = flat_indices(layout, values, limit)
    parts = [*_stream(layout), _panels(layout)]
    for theme, name in SCALES.items():
        address = data_address(palette_png(indices, scale_palette(name)))
        parts.append(
            element("image", href=address, x=LEFT, y=ABOVE, width=layout.width,
                    height=layout.height, class_=f"{theme}-page")
        )  # fmt: skip
    parts += [*_rows(layout), *_columns(layout)]
    width, height = LEFT + layout.width + RIGHT, ABOVE + layout.height + BELOW
    return figure(parts, width=width, height=height, alt=alt)


def flat_indices(
    layout: FlatLayout, values: npt.NDArray[np.floating], limit: float
) -> npt.NDArray[np.uint8]:
    """Turn values into indices of `scale_palette`.

    Parameters
    ----------
    layout : FlatLayout
        Where each unit lies.
    values : ndarray of float, shape (n_units,)
        NaN where nothing is shown.
    limit : float
        Absolute value of full colour.

    Returns
    -------
    ndarray of uint8, shape (height, width)
        0 where nothing is shown, 1 for ``-limit``, 128 for 0, 255 for `limit`.
    """
    image = np.zeros((layout.height, layout.width), dtype=np.uint8)
    shown = ~np.isnan(values)
    x, y = layout.at[shown].T
    scaled = np.clip(values[shown] / (limit or 1.0), -1, 1)
    image[y, x] = np.rint(128 + 127 * scaled).astype(np.uint8)
    return image


def scale_palette(name: str) -> npt.NDArray[np.uint8]:
    """Give the palette of one of the project's colour maps: nothing first, then 255 colours.

    Parameters
    ----------
    name : str
        Key of `llm2bids.report.draw.colormap.ARMS`.

    Returns
    -------
    ndarray of uint8, shape (256, 4)
        Red, green, blue, opacity.
    """
    colors = map_colors(name)
    chosen = colors[np.rint(np.linspace(0, len(colors) - 1, 255)).astype(np.intp)]
    palette = np.zeros((256, 4), dtype=np.uint8)
    palette[1:, :3] = np.rint(255 * chosen)
    palette[1:, 3] = 255
    return palette


def _panels(layout: FlatLayout) -> Markup:
    path = [
        f"M{LEFT + box.left:g} {ABOVE + box.top:g}h{box.width}v{box.height}h-{box.width}z"
        for box in layout.panels
    ]
    return element("path", d="".join(path), class_="panel")


def _stream(layout: FlatLayout) -> list[Markup]:
    """Draw the residual stream as a thread through its panels, with an arrow at its end."""
    if layout.midline < 0:
        return []
    row = layout.rows[layout.midline]
    y, end = ABOVE + row.top + row.height / 2, LEFT + layout.width + 22
    return [
        element("path", d=f"M{LEFT - 10:g} {y:g}H{end:g}", class_="stream"),
        element("path", d=f"M{end + 8:g} {y:g}l-12 -5v10z", class_="stream head"),
    ]


def _rows(layout: FlatLayout) -> list[Markup]:
    parts = []
    for number, row in enumerate(layout.rows):
        kind = "label end stream-name" if number == layout.midline else "label end"
        y = ABOVE + row.top + row.height / 2 + TYPE / 3
        parts.append(element("text", row.role, x=LEFT - 18, y=y, class_=kind))
    return parts


def _columns(layout: FlatLayout) -> list[Markup]:
    """Write every fifth layer and the last one, and upright what lies before and after."""
    y = ABOVE + layout.height + 28
    parts = [element("text", "layer", x=LEFT - 18, y=y, class_="tick end")]
    layers = [column for column in layout.columns if column.is_layer]
    for number, column in enumerate(layers):
        last = len(layers) - 1
        if number == last or (int(column.label) % 5 == 0 and last - number > 1):
            x = LEFT + column.left + column.width / 2
            parts.append(element("text", column.label, x=x, y=y, class_="tick mid"))
    if layout.midline < 0:
        return parts
    top = ABOVE + layout.rows[layout.midline].top - 10
    for column in layout.columns:
        if not column.is_layer:
            x = LEFT + column.left + column.width / 2 + TYPE / 3
            turned = f"rotate(-90 {x:g} {top:g})"
            parts.append(element("text", column.label, x=x, y=top, transform=turned,
                                 class_="label stream-name"))  # fmt: skip
    return parts
