"""Random units that are as many in each site as a network's, and as active on the topic's text."""

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import InterventionError
from llm2bids.space.space import Space

_NEAREST = 20
"""Units of like activation, among which one is drawn for each unit of the network."""

Units = npt.NDArray[np.intp]


def matched_units(
    units: Units,
    magnitude: npt.NDArray[np.float64],
    space: Space,
    rng: np.random.Generator,
) -> Units:
    """Draw units (n,) outside `units` (n,), matched by site and `magnitude` (n_units,)."""
    chosen = [
        _of_site(site.name, units, magnitude, space.site_slices[site.name], rng)
        for site in space.sites
    ]
    return np.concatenate(chosen)


def _of_site(
    name: str,
    units: Units,
    magnitude: npt.NDArray[np.float64],
    where: slice,
    rng: np.random.Generator,
) -> Units:
    inside = units[(units >= where.start) & (units < where.stop)]
    others = np.setdiff1d(np.arange(where.start, where.stop), inside)
    if len(others) < len(inside):
        raise InterventionError(
            f"site {name}: {len(inside)} of its {where.stop - where.start} units are in the "
            f"network, and {len(others)} are left to draw as many from; lower the dose, or take no "
            "random draws (--draws 0)"
        )
    logs = np.log(magnitude + 1e-12)
    free, drawn = np.ones(len(others), dtype=bool), []
    for unit in rng.permutation(inside):
        left = np.flatnonzero(free)
        distance = np.abs(logs[others[left]] - logs[unit])
        near = left[np.argsort(distance, kind="stable")[:_NEAREST]]
        pick = rng.choice(near)
        free[pick] = False
        drawn.append(others[pick])
    return np.array(drawn, dtype=np.intp)
