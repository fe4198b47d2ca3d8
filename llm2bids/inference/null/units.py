"""Which units the null analyses look at: a random subset, and one whole panel for clusters."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import UsageError
from llm2bids.paradigm.seed import derive_generator
from llm2bids.space.space import Space

LARGEST_PANEL = 640
"""Voxels of the panel that cluster statistics are measured on; enhancement takes seconds a group
even there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitDraw:
    """Units of the null analyses."""

    # (n_kept,): Units in recording order that are kept of a recording, sorted
    kept: npt.NDArray[np.int64]
    tested: npt.NDArray[np.int64]  # (n_tested,): Places in `kept` of the random subset
    # (n_panel,): Places in `kept` of one site's units, which are neighbours on the grid
    panel: npt.NDArray[np.int64]
    panel_voxels: npt.NDArray[np.int64]  # (n_panel, 3): Voxels of `panel`, from 1
    panel_site: str  # name of that site
    n_units: int  # units of the recording


def draw_units(space: Space, n_units: int, *, seed: int) -> UnitDraw:
    """Draw units of a space."""
    if n_units < 1:
        raise UsageError(f"n_units (--units) is {n_units}; expected 1 or more")
    rng = derive_generator(seed, "null", "units")
    tested = np.sort(rng.choice(space.n_units, min(n_units, space.n_units), replace=False))
    site = _panel_site(space)
    place = space.site_slices[site]
    panel = np.arange(place.start, place.stop)
    kept = np.union1d(tested, panel)
    voxels = space.voxels[panel].astype(np.int64)
    return UnitDraw(
        kept=kept,
        tested=np.searchsorted(kept, tested),
        panel=np.searchsorted(kept, panel),
        panel_voxels=voxels - voxels.min(axis=0) + 1,
        panel_site=site,
        n_units=space.n_units,
    )


def _panel_site(space: Space) -> str:
    widths = {site.name: site.width for site in space.sites}
    fitting = [width for width in widths.values() if width <= LARGEST_PANEL]
    wanted = max(fitting) if fitting else min(widths.values())
    candidates = [
        (abs(2 * place - len(space.sites)), site.name)
        for place, site in enumerate(space.sites)
        if site.width == wanted
    ]
    return min(candidates)[1]
