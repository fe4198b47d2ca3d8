"""Maps of all layers, a page a layer: as a picture, and packed for the page's script.

A page has the layer's panels, laid flat, beside one another; modules outside the layers have pages
of their own.
"""

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.color import LEVELS, diverging_palette
from llm2bids.report.draw.flat_layout import Places, laid_flat
from llm2bids.report.draw.svg import palette_png
from llm2bids.report.layers import depth_of
from llm2bids.report.section import render
from llm2bids.space.panels import GAP, Box, shelve
from llm2bids.space.space import Space

_GAP, _LABEL = 7, 28
_LONGEST = 1.5  # longer over shorter side of a page, where panels can be packed so


@dataclass(frozen=True)
class Piece:
    """A panel, or a part of one that is larger than a page."""

    site: int
    page: int
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Pages:
    """One page a layer, from input to output, and those of modules outside the layers."""

    width: int
    height: int
    labels: tuple[str, ...]
    pieces: tuple[Piece, ...]
    page: npt.NDArray[np.int64]  # (n_units,)
    at: Places  # on the page


def flat_pages(space: Space) -> Pages:
    """Lay all panels of a space on pages; a role has the same place on the page of every layer."""
    flat = [laid_flat(space, site) for site in space.sites]
    boxes = [(int(places[:, 0].max()) + 1, int(places[:, 1].max()) + 1) for places in flat]
    roles: dict[tuple[str, int], list[int]] = {}
    role_of: dict[int, tuple[str, int]] = {}
    seen: Counter[tuple[int, str]] = Counter()
    for index, site in enumerate(space.sites):
        if site.layer is not None:
            role_of[index] = site.role, seen[site.layer, site.role]
            seen[site.layer, site.role] += 1
            roles.setdefault(role_of[index], []).append(index)
    widest = [
        (max(boxes[i][0] for i in role), max(boxes[i][1] for i in role)) for role in roles.values()
    ]
    corners, (width, height) = _pack(widest or boxes)
    corner = dict(zip(roles, corners, strict=False))  # without layers corners are of the boxes
    levels = depth_of(space).of_site
    labels: list[str] = []
    pieces: list[Piece] = []
    page = np.empty(space.n_units, dtype=np.int64)
    at = np.empty((space.n_units, 2), dtype=np.int64)
    for index in np.argsort(levels, kind="stable").tolist():
        site, units = space.sites[index], space.site_slices[space.sites[index].name]
        if site.layer is not None:
            label = f"layer {site.layer}"
            if not labels or labels[-1] != label:
                labels.append(label)
            left, top = corner[role_of[index]]
            page[units], at[units] = len(labels) - 1, flat[index] + [left, top]
            pieces.append(Piece(index, len(labels) - 1, left, top, *boxes[index]))
            continue
        across = -(-boxes[index][0] // width)
        part = flat[index] // [width, height] @ [1, across]
        page[units], at[units] = part + len(labels), flat[index] % [width, height]
        for number in range(int(part.max()) + 1):
            size = at[units][part == number].max(axis=0) + 1
            pieces.append(Piece(index, len(labels), 0, 0, *size.tolist()))
            labels.append(site.name.rpartition(".")[2])
    return Pages(
        width=width, height=height, labels=tuple(labels), pieces=tuple(pieces), page=page, at=at
    )


def _pack(boxes: Sequence[Box]) -> tuple[list[tuple[int, int]], Box]:
    """Place rectangles in a nearly square page that wastes little."""
    side = math.sqrt(sum((columns + GAP) * (rows + GAP) for columns, rows in boxes))
    widest = max(columns for columns, _ in boxes)
    widths = range(widest, max(widest, round(1.5 * side)) + 1)

    def cost(packing: tuple[list[tuple[int, int]], Box]) -> tuple[float, float]:
        columns, rows = packing[1]
        ratio = max(columns, rows) / min(columns, rows)
        area = columns * rows * (1.0 if columns >= rows else 1.1)  # rather wide than high
        return (0 if ratio <= _LONGEST else ratio), area

    return min((shelve(boxes, width) for width in widths), key=cost)


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
