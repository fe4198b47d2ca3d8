"""Panels: a site's units as a block of voxels, and where blocks lie beside one another in a slab.

Nothing here knows of layers or of depth; :mod:`llm2bids.space.arrange` stacks the slabs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site

GAP = 1  # white voxels between two panels of a slab

_SHELVES = (1, 2, 3, 4, 6)  # rows of panels that are tried

# Sides of a slab that are tried, beside that of a square.
_SIDES = tuple(np.linspace(0.7, 1.4, 11).tolist())

Box = tuple[int, int]  # columns and rows of a rectangle, in voxels

Block = tuple[int, int, int]  # columns, rows and slices of a block, in voxels


@dataclass(frozen=True)
class Tiles:
    """What a panel is made of: so many blocks, each filled by units: heads, or single units."""

    n: int
    block: Block
    levels: int  # blocks above one another

    @lru_cache(maxsize=65536)  # noqa: B019 (of a value, hashed by what it says)
    def box(self, rows: int) -> Box:
        """Measure the panel with as many rows of blocks as fit into so many rows of voxels."""
        a_level = -(-self.n // self.levels)
        columns = -(-a_level // max(1, min(rows // self.block[1], a_level)))
        return columns * self.block[0], -(-a_level // columns) * self.block[1]

    @lru_cache(maxsize=65536)  # noqa: B019
    def compact_box(self, rows: int) -> Box:
        """Measure the panel that is a whole part of so many rows high, and squarest laid flat."""
        boxes = [self.box((rows - (n - 1) * GAP) // n) for n in range(1, 9)]
        # wide rather than high: fewer rows are cut into shorter pieces, which deflate worse
        return min(boxes, key=lambda box: (round(self.flat_ratio(box), 1), box[1]))

    @lru_cache(maxsize=65536)  # noqa: B019
    def flat_ratio(self, box: Box) -> float:
        """Longer over shorter side of the panel laid flat."""
        return _flat_ratio((*box, self.levels * self.block[2]))


def _flat_ratio(block: Block) -> float:
    """Longer over shorter side of a block laid flat, as `columns_across` lays it."""
    across = columns_across(block)
    columns, rows = block[0] * across, block[1] * (block[2] // across)
    return max(columns, rows) / min(columns, rows)


def columns_across(block: Block) -> int:
    """Choose how many slices of a block lie side by side laid flat, rather wide than high.

    Each column of voxels becomes a rectangle of so many columns, so that neighbours stay near.

    >>> columns_across((12, 12, 4)), columns_across((8, 24, 3)), columns_across((24, 24, 1))
    (2, 3, 1)
    """
    columns, rows, depth = block

    def ratio(across: int) -> float:
        wide = columns * across / (rows * (depth // across))
        return max(wide, 1.01 / wide)

    return min((n for n in range(1, depth + 1) if depth % n == 0), key=ratio)


def site_tiles(site: Site, thickness: int) -> Tiles:
    """Choose how the units of a site fill a slab of some slices."""
    return _tiles(site.width, site.n_heads, site.head_size, thickness)


@lru_cache(maxsize=4096)
def _tiles(width: int, n_heads: int | None, head_size: int | None, thickness: int) -> Tiles:
    """Choose how units fill a slab of some slices: a head is a block that it fills exactly."""
    if n_heads is None or head_size is None:
        return Tiles(n=width, block=(1, 1, 1), levels=min(thickness, width))
    made = []
    for depth in range(1, thickness + 1):
        if head_size % depth == 0:
            flat = head_size // depth
            rows = next(r for r in range(math.isqrt(flat), 0, -1) if flat % r == 0)
            levels = min(thickness // depth, n_heads)
            made.append(Tiles(n=n_heads, block=(flat // rows, rows, depth), levels=levels))
    return min(made, key=lambda m: (-(-m.n // m.levels) * m.block[0] * m.block[1], max(m.block)))


def panel_voxels(panel: Tiles, box: Box) -> npt.NDArray[np.int32]:
    """Lay units in native order in a panel of a box: column, row and slice of each, (width, 3).

    Units fill a block, and blocks a panel, column by column, then row by row, slice by slice.
    """
    columns, rows = box[0] // panel.block[0], box[1] // panel.block[1]
    corners = _filled(panel.n, columns, rows) * np.array(panel.block, dtype=np.int32)
    inside = _filled(math.prod(panel.block), *panel.block[:2])
    return np.asarray((corners[:, np.newaxis] + inside).reshape(-1, 3), dtype=np.int32)


def _filled(n: int, columns: int, rows: int) -> npt.NDArray[np.int32]:
    number = np.arange(n, dtype=np.int32)
    level, within = np.divmod(number, np.int32(columns * rows))
    return np.stack([within % columns, within // columns, level], axis=1)


def shelve(boxes: Sequence[Box], width: int) -> tuple[list[tuple[int, int]], Box]:
    """Place rectangles on shelves of a width; give first columns and rows, and the extent.

    Each is put on the first shelf with room: on top of the last one there, within the height that
    the shelf has already, or beside it.

    >>> shelve([(4, 5), (4, 2), (4, 2), (6, 3)], width=9)
    ([(0, 0), (5, 0), (5, 3), (0, 6)], (9, 9))
    """
    corners: list[tuple[int, int]] = []
    shelves: list[_Shelf] = []
    for box in boxes:
        corner = next(filter(None, (shelf.take(box, width) for shelf in shelves)), None)
        if corner is None:
            row = shelves[-1].row + shelves[-1].height + GAP if shelves else 0
            shelves.append(_Shelf(row=row, height=box[1], used=box[0], pile=box))
            corner = 0, row
        corners.append(corner)
    extent = max(shelf.used for shelf in shelves), shelves[-1].row + shelves[-1].height
    return corners, extent


@dataclass
class _Shelf:
    """A row of rectangles; those that are piled on the last one reach so many columns and rows."""

    row: int
    height: int
    used: int
    pile: Box

    def take(self, box: Box, width: int) -> tuple[int, int] | None:
        """Take a rectangle in, and say where; None where there is no room."""
        columns, rows = box
        if columns <= self.pile[0] and self.pile[1] + GAP + rows <= self.height:
            row = self.row + self.pile[1] + GAP
            self.pile = self.pile[0], self.pile[1] + GAP + rows
            return self.used - self.pile[0], row
        if rows <= self.height and self.used + GAP + columns <= width:
            self.used, self.pile = self.used + GAP + columns, box
            return self.used - columns, self.row
        return None


def packings(
    panels: Sequence[Sequence[Tiles]],
) -> Iterator[tuple[list[Box], list[Box], Box, float]]:
    """Try ways to lay panels in a nearly square slab: boxes, corners, extent, and mean flat ratio.

    Each panel is given by all the sites that have it in one layer or another.
    """
    area = sum(max(-(-m.n // m.levels) * math.prod(m.block[:2]) for m in panel) for panel in panels)
    sides = [math.sqrt(1.1 * area) * share for share in _SIDES]
    heights = {max(1, round((side - (n - 1) * GAP) / n)) for n in _SHELVES for side in sides}
    tried: set[tuple[Box, ...]] = set()
    for height in sorted(heights):
        for box in (Tiles.compact_box, Tiles.box):
            boxes = [_common([box(tiling, height) for tiling in panel]) for panel in panels]
            if tuple(boxes) in tried:
                continue
            tried.add(tuple(boxes))
            ratio = mean_ratio(panels, boxes)
            widest = max(columns for columns, _ in boxes)
            for width in sorted({max(widest, round(side)) for side in sides}):
                yield boxes, *shelve(boxes, width), ratio


def _common(boxes: Sequence[Box]) -> Box:
    return max(columns for columns, _ in boxes), max(rows for _, rows in boxes)


def mean_ratio(panels: Sequence[Sequence[Tiles]], boxes: Sequence[Box]) -> float:
    """Average flat ratios, each panel by its area."""
    ratios = [panel[0].flat_ratio(box) for panel, box in zip(panels, boxes, strict=True)]
    return float(np.average(ratios, weights=[columns * rows for columns, rows in boxes]))
