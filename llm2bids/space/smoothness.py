"""How smooth maps are on the grid, and how much two arrangements agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.space.arrange import rearrange
from llm2bids.space.definition import Layout
from llm2bids.space.functional import FEWEST_PROMPTS, METHOD, learn_cells, random_space
from llm2bids.space.space import Space

Pairs = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How much arrangements that were learned from the halves of a localizer agree.

    By role, and of all panels: the correlation of pairwise grid distances (median over panels) of
    the order from one half with that from the other (``functional``), and, for comparison, of
    native and of random order with that from the other.
    """

    n_prompts: tuple[int, int]  # of the two halves
    correlation: dict[str, dict[str, float]]


def grid_pairs(space: Space, distance: int = 1) -> Pairs:
    """List pairs of units of a site that lie some voxels apart along an axis, twice (n_pairs,)."""
    site = space.site_of_unit
    firsts, seconds = [], []
    for axis in range(3):
        moved = np.moveaxis(space.unit_of_voxel, axis, 0)
        first, second = moved[:-distance].ravel(), moved[distance:].ravel()
        there = (first >= 0) & (second >= 0)
        first, second = first[there], second[there]
        same = site[first] == site[second]
        firsts.append(first[same])
        seconds.append(second[same])
    return np.concatenate(firsts).astype(np.intp), np.concatenate(seconds).astype(np.intp)


def morans_i(values: npt.ArrayLike, space: Space) -> npt.NDArray[np.float64]:
    """Measure Moran's I (1950) of maps (n_maps, n_units) within each panel: (n_maps, n_sites).

    Neighbours share a face and a panel; without autocorrelation ``-1 / (width - 1)`` is expected.
    Values are centred in each panel, so that differences between panels do not count. Units that
    are NaN are left out. NaN where a map is constant or a panel has no neighbours.
    """
    maps = np.atleast_2d(np.asarray(values, dtype=np.float64))
    site = space.site_of_unit
    first, second = grid_pairs(space)
    moran = np.full((len(maps), len(space.sites)), np.nan)
    for row, values_of_map in enumerate(maps):
        there = np.isfinite(values_of_map)
        filled = np.where(there, values_of_map, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            widths = np.bincount(site, there)
            centred = np.where(there, filled - (np.bincount(site, filled) / widths)[site], 0.0)
            squares = np.bincount(site, centred**2) / widths
            products = np.bincount(site[first], centred[first] * centred[second], len(space.sites))
            n_pairs = np.bincount(site[first], there[first] & there[second], len(space.sites))
            moran[row] = products / n_pairs / squares
    return moran


def neighbour_correlation(
    responses: npt.ArrayLike, space: Space, distances: Sequence[int] = (1, 2, 4, 8)
) -> pd.DataFrame:
    """Correlate responses (n_observations, n_units) of units that lie some voxels apart.

    Columns ``distance``, ``n_pairs`` and ``correlation`` (mean over pairs of varying units).
    """
    maps = np.asarray(responses, dtype=np.float64)
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
        for observation in centred:  # an observation at a time: pairs times observations is large
            products += observation[first] * observation[second]
        mean = float(products.mean()) if products.size else np.nan
        rows.append({"distance": distance, "n_pairs": first.size, "correlation": mean})
    return pd.DataFrame(rows)


def arrangement_stability(
    space: Space, other: Space, *, n_pairs: int = 2000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Correlate the distances of random pairs of units in two arrangements, (n_sites,).

    Pairs are within a head where there are heads, as these do not move; NaN below three units.
    """
    rng = np.random.default_rng(seed)
    correlations = np.full(len(space.sites), np.nan)
    slices = space.site_slices.values()
    for index, (site, units) in enumerate(zip(space.sites, slices, strict=True)):
        size = site.head_size or site.width
        if size < 3:
            continue
        first = rng.integers(units.start, units.stop, n_pairs)
        second = first - (first - units.start) % size + rng.integers(0, size, n_pairs)
        apart = first != second
        first, second = first[apart], second[apart]
        distances = [
            np.linalg.norm((voxels[first] - voxels[second]).astype(float), axis=1)
            for voxels in (space.voxels, other.voxels)
        ]
        correlations[index] = np.corrcoef(*distances)[0, 1]
    return correlations


def split_half_stability(
    space: Space,
    responses: npt.NDArray[np.float32],
    conditions: Sequence[str],
    *,
    baseline: str,
    n_jobs: int = 1,
) -> Stability | None:
    """Learn the arrangement from each half of a localizer, and compare; None if too short."""
    labels = pd.Series(conditions)
    rank = labels.groupby(labels).cumcount().to_numpy()
    halves = [np.flatnonzero(rank % 2 == rest) for rest in (0, 1)]
    if min(map(len, halves)) < FEWEST_PROMPTS or labels.value_counts().min() < 4:
        return None
    learned = (
        learn_cells(
            space, responses[half], labels.iloc[half].tolist(), baseline=baseline, n_jobs=n_jobs
        ).cells
        for half in halves
    )
    layout = Layout(method=METHOD)
    first, second = (
        rearrange(space, cells, arrangement="functional", layout=layout) for cells in learned
    )
    orders = {"functional": first, "index": space, "random": random_space(space, seed=0)}
    by_order = {name: arrangement_stability(order, second) for name, order in orders.items()}
    medians = medians_by_role(space, by_order).dropna().to_dict("index")
    correlation = {
        str(role): {str(order): round(value, 4) for order, value in row.items()}
        for role, row in medians.items()
    }
    return Stability(n_prompts=(len(halves[0]), len(halves[1])), correlation=correlation)


def medians_by_role(space: Space, by_order: Mapping[str, npt.NDArray[np.float64]]) -> pd.DataFrame:
    """Take medians of (..., n_sites): a row for all panels and for each role, a column an order."""
    roles = np.array([site.role for site in space.sites])
    parts = {"all panels": roles == roles, **{role: roles == role for role in roles.tolist()}}
    medians = {
        order: {name: _median(values[..., part]) for name, part in parts.items()}
        for order, values in by_order.items()
    }
    return pd.DataFrame(medians)


def _median(values: npt.NDArray[np.float64]) -> float:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if there.size else np.nan
