"""A curve through every cell of a rectangle, on which what is near stays near: Hilbert's."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Step = tuple[int, int]


def hilbert_cells(columns: int, rows: int) -> npt.NDArray[np.int32]:
    """Walk through all cells of a rectangle along a generalised Hilbert curve.

    Hilbert's curve fills squares whose side is a power of two; the generalised one cuts any
    rectangle into halves whose sides are even wherever that can be. Consecutive cells touch by an
    edge, but for one diagonal step in rectangles whose longer side is odd and shorter one even.

    Parameters
    ----------
    columns, rows : int
        Sides of the rectangle, 1 or more.

    Returns
    -------
    ndarray of int32, shape (columns * rows, 2)
        Column and row of each cell in the order of the walk, from (0, 0).

    References
    ----------
    J. Cerveny, Generalized Hilbert ("gilbert") space-filling curve for rectangular domains of
    arbitrary sizes, 2018.

    Examples
    --------
    >>> hilbert_cells(2, 2).tolist()
    [[0, 0], [0, 1], [1, 1], [1, 0]]
    """
    along, across = (columns, 0), (0, rows)
    walk = _walk((0, 0), along, across) if columns >= rows else _walk((0, 0), across, along)
    return np.array(list(walk), dtype=np.int32)


def _walk(start: Step, along: Step, across: Step) -> Iterator[Step]:
    """Cells of the rectangle that two vectors span from a corner."""
    width, height = abs(sum(along)), abs(sum(across))
    forward, sideways = _unit(along), _unit(across)
    if height == 1:
        yield from (_add(start, forward, times=n) for n in range(width))
        return
    if width == 1:
        yield from (_add(start, sideways, times=n) for n in range(height))
        return
    half, flank = _half(along), _half(across)
    if 2 * width > 3 * height:  # long: two pieces, one after the other
        if abs(sum(half)) % 2 and width > 2:
            half = _add(half, forward)
        yield from _walk(start, half, across)
        yield from _walk(_add(start, half), _add(along, half, times=-1), across)
        return
    if abs(sum(flank)) % 2 and height > 2:
        flank = _add(flank, sideways)
    yield from _walk(start, flank, half)  # up, along, down
    yield from _walk(_add(start, flank), along, _add(across, flank, times=-1))
    corner = _add(_add(start, _add(along, forward, times=-1)), _add(flank, sideways, times=-1))
    rest = _add(along, half, times=-1)
    yield from _walk(corner, (-flank[0], -flank[1]), (-rest[0], -rest[1]))


def _unit(vector: Step) -> Step:
    return (vector[0] > 0) - (vector[0] < 0), (vector[1] > 0) - (vector[1] < 0)


def _half(vector: Step) -> Step:
    return vector[0] // 2, vector[1] // 2


def _add(one: Step, other: Step, *, times: int = 1) -> Step:
    return one[0] + times * other[0], one[1] + times * other[1]
