"""How smooth maps are on the grid, and how alike two arrangements are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import SpaceError
from llm2bids.space.space import Space

Pairs = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


def grid_pairs(space: Space, distance: int = 1) -> Pairs:
    """List the pairs of units that lie some voxels apart along x or y.

    Parameters
    ----------
    space : Space
        The space.
    distance : int, default=1
        Voxels; 1 lists neighbours that share a face.

    Returns
    -------
    tuple of ndarray of int, each shape (n_pairs,)
        First and second unit. Both are of the same site: panels are apart, but a longer step
        would reach the next one.
    """
    site = np.repeat(np.arange(len(space.sites)), [site.width for site in space.sites])
    firsts, seconds = [], []
    for axis in range(2):
        moved = np.moveaxis(space.unit_of_voxel, axis, 0)
        first, second = moved[:-distance].ravel(), moved[distance:].ravel()
        there = (first >= 0) & (second >= 0)
        first, second = first[there], second[there]
        same = site[first] == site[second]
        firsts.append(first[same])
        seconds.append(second[same])
    return np.concatenate(firsts).astype(np.intp), np.concatenate(seconds).astype(np.intp)


def morans_i(values: npt.ArrayLike, space: Space) -> npt.NDArray[np.float64]:
    """Measure the spatial autocorrelation of maps within each panel: Moran's I.

    Neighbours share a face and a panel; all weights are 1. Without autocorrelation the expected
    value is ``-1 / (width - 1)``. Values are centred within each panel, so that differences between
    panels do not count.

    Parameters
    ----------
    values : array_like, shape (n_maps, n_units)
        Maps, units in recording order.
    space : Space
        Their space.

    Returns
    -------
    ndarray of float64, shape (n_maps, n_sites)
        NaN where a map is constant in a panel, or a panel has no neighbours.

    Raises
    ------
    SpaceError
        If the last axis is not the units.

    References
    ----------
    Moran (1950), Biometrika 37:17.
    """
    maps = _checked(values, space)
    site = np.repeat(np.arange(len(space.sites)), [site.width for site in space.sites])
    first, second = grid_pairs(space)
    n_pairs = np.bincount(site[first], minlength=len(space.sites))
    widths = np.bincount(site)
    found = np.full((len(maps), len(space.sites)), np.nan)
    for row, one in enumerate(maps):
        centred = one - (np.bincount(site, one) / widths)[site]
        squares = np.bincount(site, centred**2) / widths
        products = np.bincount(site[first], centred[first] * centred[second], len(space.sites))
        with np.errstate(divide="ignore", invalid="ignore"):
            found[row] = products / n_pairs / squares
    return found


def neighbour_correlation(
    responses: npt.ArrayLike, space: Space, distances: Sequence[int] = (1, 2, 4, 8)
) -> pd.DataFrame:
    """Correlate the responses of units that lie some voxels apart.

    Parameters
    ----------
    responses : array_like, shape (n_observations, n_units)
        E.g. means of prompts that the arrangement was not learned from.
    space : Space
        Their space.
    distances : sequence of int
        Voxels along x or y.

    Returns
    -------
    DataFrame
        ``distance`` (int), ``n_pairs`` (int), ``correlation`` (float, mean over pairs of varying
        units).

    Raises
    ------
    SpaceError
        If the last axis is not the units, or there are fewer than three observations.
    """
    maps = _checked(responses, space)
    if len(maps) < 3:
        raise SpaceError(f"responses: {len(maps)} observations; expected 3 or more to correlate")
    centred = maps - maps.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    varies = length > 0
    centred[:, varies] /= length[varies]
    rows = []
    for distance in distances:
        first, second = grid_pairs(space, distance)
        both = varies[first] & varies[second]
        first, second = first[both], second[both]
        products = np.zeros(first.size)
        for one in centred:  # an observation at a time: pairs times observations is large
            products += one[first] * one[second]
        mean = float(products.mean()) if products.size else np.nan
        rows.append({"distance": distance, "n_pairs": first.size, "correlation": mean})
    return pd.DataFrame(rows)


def arrangement_stability(
    one: Space, other: Space, *, n_pairs: int = 2000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Tell how much two arrangements of a model agree on which units are near.

    Parameters
    ----------
    one, other : Space
        Spaces of the same sites.
    n_pairs : int
        Pairs of units that are drawn in each panel, within a head where there are heads: these do
        not move.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray of float64, shape (n_sites,)
        Correlation of the pairs' distances on the grids; NaN in a panel (or head) of fewer than
        three units.

    Raises
    ------
    SpaceError
        If the sites differ.
    """
    if one.sites != other.sites:
        raise SpaceError(
            f"spaces {one.label} and {other.label} have different sites; expected two arrangements "
            "of the same"
        )
    rng = np.random.default_rng(seed)
    found = np.full(len(one.sites), np.nan)
    for index, (site, units) in enumerate(zip(one.sites, one.site_slices.values(), strict=True)):
        size = site.head_size or site.width
        if size < 3:
            continue
        first = rng.integers(units.start, units.stop, n_pairs)
        second = first - (first - units.start) % size + rng.integers(0, size, n_pairs)
        apart = first != second
        first, second = first[apart], second[apart]
        distances = [
            np.linalg.norm((space.voxels[first] - space.voxels[second]).astype(float), axis=1)
            for space in (one, other)
        ]
        found[index] = np.corrcoef(*distances)[0, 1]
    return found


def _checked(values: npt.ArrayLike, space: Space) -> npt.NDArray[np.float64]:
    maps = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if maps.ndim != 2 or maps.shape[1] != space.n_units:
        raise SpaceError(
            f"values have shape {maps.shape}; expected (n, {space.n_units}), the units of space "
            f"{space.label} last"
        )
    return maps
