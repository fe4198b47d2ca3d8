"""Layers as flat pages: each panel's block of voxels laid flat, panels beside one another."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site
from llm2bids.report.layers import depth_of
from llm2bids.space.panels import GAP, Box, columns_across, shelve
from llm2bids.space.space import Space

_LONGEST = 1.5  # longer over shorter side of a page, where panels can be packed so

Places = npt.NDArray[np.int64]  # column and row of each unit, (n_units, 2), from the top left


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


def laid_flat(space: Space, site: Site) -> Places:
    """Lay a site's block of voxels flat: voxels of a column become neighbours, heads stay whole.

    Whatever the layout of the space: what lies in one slice keeps its rows and columns.
    """
    voxels = space.voxels[space.site_slices[site.name]].astype(np.int64)
    heads = voxels.reshape(-1, site.head_size or site.width, 3)
    corners = heads.min(axis=1)
    inside = _flat((heads - corners[:, np.newaxis]).reshape(-1, 3), (1, 1))
    box = inside.max(axis=0) + 1
    grid = np.stack([np.unique(axis, return_inverse=True)[1] for axis in corners.T], axis=1)
    tiles = _flat(grid, (int(box[0]), int(box[1])))
    return np.asarray(np.repeat(tiles * box, heads.shape[1], axis=0) + inside)


def _flat(cells: npt.NDArray[np.int64], size: Box) -> Places:
    """Give cells (n, 3) of a block, each of a size, a column and row: neighbours lie together.

    A column of voxels becomes a tile, and every other tile is turned over: what touches across
    its edge then lies in one slice.
    """
    columns, rows, depth = (cells.max(axis=0) + 1).tolist()
    across = columns_across((columns * size[0], rows * size[1], depth))
    down = depth // across
    x, y, level = cells.T
    row, column = np.divmod(level, across)
    column = np.where((row + columns - 1 - x) % 2, across - 1 - column, column)
    # counted from the last row, which may lack its deeper voxels
    row = np.where((rows - 1 - y) % 2, down - 1 - row, row)
    return np.stack([x * across + column, y * down + row], axis=1)


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
