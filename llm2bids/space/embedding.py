"""A map of the units in two dimensions, fitted to the cells of their panel."""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

PERPLEXITY: Final = 30.0
"""Neighbours that t-SNE keeps near: scikit-learn's default; a third of the units where few."""

ROUNDS: Final = 200
"""Rounds of swaps, fewer for fewer units. In each, every cell of one colour of the chessboard is
offered one swap."""

REACH: Final = 8
"""Cells on a side of the squares within which swaps are offered."""

Cells = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def planar_order(
    features: Floats,
    places: npt.NDArray[np.int32],
    *,
    method: Literal["components", "tsne"] = "components",
) -> Cells:
    """Give each unit a cell, so that units with similar features are neighbours.

    With ``components``, units fill the columns by their first principal component, and the rows of
    each column by the second. With ``tsne``, they are embedded in the plane with t-SNE, and
    assigned to cells at the least sum of squared shifts. In both, swaps of two units then lower the
    squared feature distance between neighbouring cells, as long as they can.

    Parameters
    ----------
    features : ndarray of float32, shape (n_units, n_features)
        What units are compared by.
    places : ndarray of int32, shape (n_units, 2)
        Column and row of each cell.
    method : {"components", "tsne"}
        The map that is fitted to the cells.

    Returns
    -------
    ndarray of int32, shape (n_units,)
        The cell of each unit: a permutation.

    References
    ----------
    van der Maaten & Hinton (2008), Journal of Machine Learning Research 9:2579.
    """
    if len(features) < 4 or not np.ptp(features, axis=0).any():  # no map to make
        return np.arange(len(features), dtype=np.int32)
    place = _by_components if method == "components" else _by_tsne
    return _refined(place(features, places), features, places)


def _by_components(features: Floats, places: npt.NDArray[np.int32]) -> Cells:
    """Sort units into columns by the first principal component, within columns by the second."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending; features are few, units many
    axes = vectors[:, :-3:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    points = centred @ axes
    cells_in_order = np.lexsort((places[:, 1], places[:, 0]))
    units_in_order = np.argsort(points[:, 0], kind="stable")
    column = np.empty(len(places), dtype=np.int32)
    column[units_in_order] = places[cells_in_order, 0]
    order = np.empty(len(places), dtype=np.int32)
    order[np.lexsort((points[:, -1], column))] = cells_in_order
    return order


def _by_tsne(features: Floats, places: npt.NDArray[np.int32]) -> Cells:
    """Embed the units with t-SNE, stretch the embedding over the cells, and assign."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    _, cells = linear_sum_assignment(cdist(_stretched(points), _stretched(places), "sqeuclidean"))
    return np.asarray(cells, dtype=np.int32)


def _stretched(points: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Stretch both axes of a cloud of points to the same spread."""
    cloud = points.astype(np.float64)
    cloud -= cloud.mean(axis=0)
    return np.asarray(cloud / np.maximum(cloud.std(axis=0), 1e-12))


def _refined(cells: Cells, features: Floats, places: npt.NDArray[np.int32]) -> Cells:
    """Swap units of cells of one colour of the chessboard, which never are neighbours.

    What surrounds these cells does not change in a round, so all swaps that are gains by
    themselves are gains together, and the cost falls from round to round.
    """
    rng = np.random.default_rng(0)
    unit_at = np.empty_like(cells)
    unit_at[cells] = np.arange(len(cells), dtype=np.int32)
    around = _neighbours(places)
    n_around = (around >= 0).sum(axis=1)
    color = places.sum(axis=1) % 2
    nobody = np.zeros((1, features.shape[1]), dtype=features.dtype)
    there = np.concatenate([features[unit_at], nobody])  # around is -1, the last row, at an edge
    for number in range(min(ROUNDS, len(cells))):
        chosen = np.flatnonzero(color == number % 2)
        squares = (places[chosen] + rng.integers(0, REACH, 2)) // REACH
        chosen = chosen[np.lexsort((rng.random(chosen.size), squares[:, 0], squares[:, 1]))]
        one, two = chosen[: chosen.size // 2 * 2].reshape(-1, 2).T
        change = there[two] - there[one]
        pull = there[around[one]].sum(axis=1) - there[around[two]].sum(axis=1)
        squared = (there[two] ** 2).sum(axis=1) - (there[one] ** 2).sum(axis=1)
        crowd = n_around[one] - n_around[two]
        gains = crowd * squared - 2 * (change * pull).sum(axis=1) < -1e-6
        one, two = one[gains], two[gains]
        unit_at[one], unit_at[two] = unit_at[two], unit_at[one]
        there[one], there[two] = there[two], there[one]
    refined = np.empty_like(cells)
    refined[unit_at] = np.arange(len(cells), dtype=np.int32)
    return refined


def _neighbours(places: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """List the cells that share an edge with each, shape (n_cells, 4); -1 where there is none."""
    columns, rows = places.max(axis=0) + 1
    board = np.full((columns + 2, rows + 2), -1, dtype=np.int32)
    x, y = (places + 1).T
    board[x, y] = np.arange(len(places), dtype=np.int32)
    return np.stack([board[x - 1, y], board[x + 1, y], board[x, y - 1], board[x, y + 1]], axis=1)
