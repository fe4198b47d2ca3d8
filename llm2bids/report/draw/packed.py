"""Maps and the layout of a space, packed for the page's script."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.report.draw.color import LEVELS
from llm2bids.report.section import packed
from llm2bids.space.space import Space


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """A map in one byte a unit.

    Parameters
    ----------
    steps : ndarray of int8, shape (n_units,)
        -127 to 127; a value is ``sign(step) * (step / 127) ** 2 * limit``.
    limit : float
        Largest absolute value.
    """

    steps: npt.NDArray[np.int8]
    limit: float

    def values(self) -> npt.NDArray[np.float64]:
        """Give the values back, within ``sqrt(|value| * limit) / 127``."""
        steps = self.steps.astype(np.float64)
        return np.asarray(np.sign(steps) * (steps / LEVELS) ** 2 * self.limit)


def quantise(values: npt.NDArray[np.floating[Any]]) -> Quantised:
    """Store a map in one byte a unit, finer near zero.

    Parameters
    ----------
    values : ndarray of float, shape (n_units,)
        Finite values.

    Returns
    -------
    Quantised
        The map, on a square root scale: neighbouring steps are 1.6 % of the limit apart at the
        limit, and finer below.

    Examples
    --------
    >>> quantise(np.array([-4.0, 0.0, 1.0])).steps.tolist()
    [-127, 0, 64]
    """
    limit = float(np.abs(values).max(initial=0.0)) or 1.0
    steps = np.sign(values) * np.sqrt(np.abs(values) / limit) * LEVELS
    return Quantised(steps=np.rint(steps).astype(np.int8), limit=limit)


def pack_layout(space: Space) -> dict[str, Any]:
    """Describe where each unit of a space is drawn.

    Parameters
    ----------
    space : Space
        The space.

    Returns
    -------
    dict
        ``sites``: name, layer, role, width, head size, first unit. ``slices``: label, columns and
        rows. ``pieces``: for each site and slice its slice, corner, columns, rows, and which of
        ``grids`` says what unit of the site (plus 1; 0 for none) is in each of its cells, in rows
        from the top. ``grids``: base64 of uint16 or uint32 (``bits``). Panels that look alike share
        a grid.
    """
    x, y, _ = space.brain_box
    origin = np.array([x.start, y.start])
    depths = sorted(set(space.voxels[:, 2].tolist()))
    largest = max(site.width for site in space.sites)
    dtype = np.dtype("<u2" if largest < 65_535 else "<u4")
    grids: dict[tuple[int, bytes], int] = {}
    pieces: list[list[int]] = []
    for index, site in enumerate(space.sites):
        voxels = space.voxels[space.site_slices[site.name]]
        for depth in sorted(set(voxels[:, 2].tolist())):
            inside = np.flatnonzero(voxels[:, 2] == depth)
            places = voxels[inside, :2]
            corner = places.min(axis=0)
            columns, rows = (places.max(axis=0) + 1 - corner).tolist()
            grid = np.zeros((rows, columns), dtype=dtype)
            grid[places[:, 1] - corner[1], places[:, 0] - corner[0]] = inside + 1
            number = grids.setdefault((columns, grid.tobytes()), len(grids))
            where = (corner - origin).tolist()
            pieces.append([index, depths.index(depth), *where, columns, rows, number])
    return {
        "sites": [
            [site.name, site.layer, site.role, site.width, site.head_size,
             space.site_slices[site.name].start] for site in space.sites
        ],
        "slices": [
            {"label": label, "w": x.stop - x.start, "h": y.stop - y.start}
            for label in slice_labels(space)
        ],
        "pieces": pieces,
        "bits": 8 * dtype.itemsize,
        "grids": [packed(np.frombuffer(cells, dtype=dtype)) for _, cells in grids],
    }  # fmt: skip


def slice_labels(space: Space) -> list[str]:
    """Name each slice that has units, from input to output.

    Parameters
    ----------
    space : Space
        The space.

    Returns
    -------
    list of str
        ``"layer 5"``; outside the layers the last part of a module's name.
    """
    found: dict[int, list[str]] = {}
    for site in space.sites:
        voxels = space.voxels[space.site_slices[site.name]]
        name = site.name.rpartition(".")[2] if site.layer is None else f"layer {site.layer}"
        for depth in np.unique(voxels[:, 2]).tolist():
            found.setdefault(depth, []).append(name)
    return [" + ".join(dict.fromkeys(found[depth])) for depth in sorted(found)]
