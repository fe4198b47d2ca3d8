"""Maps of all layers: as a picture, and packed with the layout of a space for the page's script."""

import base64
import math
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.color import LEVELS, diverging_palette
from llm2bids.report.draw.pages import flat_pages
from llm2bids.report.draw.svg import palette_png
from llm2bids.report.section import render
from llm2bids.space.space import Space

_GAP, _LABEL = 7, 28


def quantise(values: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.int8], float]:
    """Store a map, (n_units,), in one byte a unit, on a square root scale: finer near zero.

    Gives steps, -127 to 127, or -128 where a unit has no value, and the limit, the largest absolute
    value: a value is ``sign(step) * (step / 127) ** 2 * limit``.

    >>> quantise(np.array([-4.0, 0.0, 1.0, np.nan]))[0].tolist()
    [-127, 0, 64, -128]
    """
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    steps = np.sign(values) * np.sqrt(np.abs(values) / limit) * LEVELS
    steps = np.where(np.isnan(steps), -LEVELS - 1, np.rint(steps))
    return steps.astype(np.int8), limit


def pack_layout(space: Space) -> dict[str, Any]:
    """Describe where each unit of a space is drawn, on pages as `flat_pages` makes them.

    ``sites``: as `pack_sites` has them. ``slices``: label, columns and rows
    of each page. ``pieces``: for each panel on a page its site, page, corner, columns, rows, and
    which of ``grids`` says what unit of the site (plus 1; 0 for none) is in each of its cells, in
    rows from the top. ``grids``: base64 of uint16 or uint32 (``bits``). Panels that look alike
    share a grid.
    """
    pages = flat_pages(space)
    largest = max(site.width for site in space.sites)
    dtype = np.dtype("<u2" if largest < 65_535 else "<u4")
    grids: dict[tuple[int, bytes], int] = {}
    pieces: list[list[int]] = []
    for piece in pages.pieces:
        units = space.site_slices[space.sites[piece.site].name]
        inside = np.flatnonzero(pages.page[units] == piece.page)
        columns, rows = (pages.at[units][inside] - [piece.left, piece.top]).T
        grid = np.zeros((piece.height, piece.width), dtype=dtype)
        grid[rows, columns] = inside + 1
        number = grids.setdefault((piece.width, grid.tobytes()), len(grids))
        pieces.append([*astuple(piece), number])
    return {
        "sites": pack_sites(space),
        "slices": [{"label": label, "w": pages.width, "h": pages.height} for label in pages.labels],
        "pieces": pieces,
        "bits": 8 * dtype.itemsize,
        "grids": [base64.b64encode(cells).decode() for _, cells in grids],
    }


def pack_sites(space: Space) -> list[list[Any]]:
    """List the sites for a page's script: name, layer, role, width, head size, first unit."""
    return [
        [*(site.name, site.layer, site.role, site.width, site.head_size), units.start]
        for site, units in zip(space.sites, space.site_slices.values(), strict=True)
    ]


def mosaic_figure(
    space: Space,
    indices: npt.NDArray[np.uint8],
    *,
    alt: str,
    palette: npt.NDArray[np.uint8] | None = None,
) -> Markup:
    """Draw a map, (n_units,), one page a cell, from input to output, with borders of panels.

    Values are indices of a palette, `diverging_palette` by default, whose 1 or 127 is transparent.
    """
    clear = 127 if palette is None else 1
    palette = diverging_palette() if palette is None else palette
    pages = flat_pages(space)
    columns = mosaic_columns(len(pages.labels), pages.width, pages.height)
    rows = math.ceil(len(pages.labels) / columns)
    step = np.array([pages.width + _GAP, pages.height + _GAP + _LABEL])
    slots = np.arange(len(pages.labels))
    corners = np.stack([slots % columns, slots // columns], axis=1) * step  # of the labels
    x, y = (corners[pages.page] + pages.at).T
    width, height = (np.array([columns, rows]) * step).tolist()
    image = np.full((height, width), clear, dtype=np.uint8)
    image[y + _LABEL, x] = indices
    panels = [
        (*(corners[piece.page] + [piece.left, piece.top + _LABEL]), piece.width, piece.height)
        for piece in pages.pieces
    ]
    shown = [label.removeprefix("layer ").split("_")[0] for label in pages.labels]
    labels = [(left, top + 23, label) for (left, top), label in zip(corners, shown, strict=True)]
    png = palette_png(image, palette)
    return render(
        "mosaic.svg", panels=panels, png=png, labels=labels, width=width, height=height, alt=alt
    )


def mosaic_columns(n_slices: int, width: int, height: int) -> int:
    """Choose how many slices lie side by side: about as wide as high, twice over.

    >>> mosaic_columns(32, 112, 110)
    8
    """
    return max(1, min(n_slices, round(math.sqrt(2 * n_slices * height / width))))
