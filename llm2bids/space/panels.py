"""Panels: where the units of a site lie within its rectangle, and where rectangles lie in a slice.

Nothing here knows of layers or of depth; :mod:`llm2bids.space.arrange` stacks the slices.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site

GAP = 1
"""White voxels between two panels of a slice."""

_LONGEST = 1.5
"""Longer over shorter side of a slice, where panels can be packed so."""

Box = tuple[int, int]
"""Columns and rows of a rectangle, in voxels."""


def head_box(head_size: int) -> Box:
    """Find the most nearly square rectangle (columns, rows) that a head fills exactly."""
    rows = next(r for r in range(math.isqrt(head_size), 0, -1) if head_size % r == 0)
    return head_size // rows, rows


def head_columns(n_heads: int, box: Box) -> int:
    """Choose in how many columns heads are tiled: the shortest outline, then the fewest gaps."""

    def cost(columns: int) -> tuple[int, int, int]:
        rows = -(-n_heads // columns)
        width, height = columns * box[0], rows * box[1]
        return width + height, columns * rows - n_heads, -columns

    return min(range(1, n_heads + 1), key=cost)


def panel_offsets(site: Site) -> npt.NDArray[np.int32]:
    """Lay out the units of a site in its panel in native order: columns and rows, (width, 2).

    A head is a filled rectangle and heads lie side by side without gaps. Without heads, units fill
    the rows of a near square; the end of the last row may be empty.
    """
    if site.width < 1:
        raise SpaceError(
            f"site {site.name} has {site.width} units; a site needs at least one: leave it out"
        )
    unit = np.arange(site.width, dtype=np.int32)
    if site.n_heads is None or site.head_size is None:
        columns = math.isqrt(site.width - 1) + 1
        return np.stack([unit % columns, unit // columns], axis=1)
    if site.n_heads < 1 or site.n_heads * site.head_size != site.width:
        raise SpaceError(
            f"site {site.name} has {site.width} units but {site.n_heads} heads of "
            f"{site.head_size}; heads times head size must be the number of units, or both None"
        )
    box = head_box(site.head_size)
    columns = head_columns(site.n_heads, box)
    head, within = np.divmod(unit, np.int32(site.head_size))
    column = (head % columns) * box[0] + within % box[0]
    row = (head // columns) * box[1] + within // box[0]
    return np.stack([column, row], axis=1)


def panel_box(offsets: npt.NDArray[np.int32]) -> Box:
    """Measure the columns and rows of the rectangle around a panel (width, 2)."""
    columns, rows = (offsets.max(axis=0) + 1).tolist()
    return columns, rows


def shelve(boxes: Sequence[Box], width: int) -> tuple[list[tuple[int, int]], Box]:
    """Place rectangles in order on shelves of a width; give first columns and rows, and the extent.

    One that fits on top of the one before, within the height that the shelf has already, is put
    there.

    >>> shelve([(4, 5), (4, 2), (4, 2), (6, 3)], width=9)
    ([(0, 0), (5, 0), (5, 3), (0, 6)], (9, 9))
    """
    corners: list[tuple[int, int]] = []
    column = row = shelf = used = 0
    pile_width, pile_top = 0, 0
    for columns, rows in boxes:
        if columns <= pile_width and pile_top + rows <= shelf:
            corners.append((column - pile_width - GAP, row + pile_top))
            pile_top += rows + GAP
            continue
        if column and column + columns > width:
            column, row, shelf = 0, row + shelf + GAP, 0
        corners.append((column, row))
        used = max(used, column + columns)
        column += columns + GAP
        shelf = max(shelf, rows)
        pile_width, pile_top = columns, rows + GAP
    return corners, (used, row + shelf)


def pack(boxes: Sequence[Box]) -> tuple[list[tuple[int, int]], Box]:
    """Place rectangles in order in a nearly square slice that wastes little, as `shelve`.

    Of all widths, the one with the least area is taken among those whose longer side is at most
    `_LONGEST` times the shorter; where there is none, the most nearly square one.
    """
    area = sum((columns + GAP) * (rows + GAP) for columns, rows in boxes)
    widest = max(columns for columns, _ in boxes)
    widths = range(widest, max(widest, 2 * math.isqrt(area)) + 1)
    packings = (shelve(boxes, width) for width in widths)

    def cost(packing: tuple[list[tuple[int, int]], Box]) -> tuple[float, int]:
        columns, rows = packing[1]
        ratio = max(columns, rows) / min(columns, rows)
        return (0 if ratio <= _LONGEST else ratio), columns * rows

    return min(packings, key=cost)
