"""Statistical maps in a space: read unit by unit, units chosen, and named in model coordinates."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import SpaceError
from llm2bids.options import fits
from llm2bids.space.definition import unit_table
from llm2bids.space.grid import GridImage, open_image
from llm2bids.space.header import fingerprint_differs, read_fingerprint
from llm2bids.space.space import Space

# Columns of the table that `locate` returns.
LOCATE_COLUMNS = (
    *("address", "module", "layer", "role", "head", "unit"),
    *("x", "y", "z", "value"),
)

# Correlation of white voxels with the units beside them from which on a map counts as a mixture.
# White matter carries a dither of its own, so its z values, effects and variances have nothing to
# do with their neighbours: at most 0.02 in maps of nilearn (8,000 to 250,000 voxels a direction),
# 0.13 after smoothing by one voxel, 0.05 to 1 after linear interpolation, 0.18 of TFCE.
_MIXED = 0.05

# The same correlation in standard errors: small spaces have few white voxels beside units.
_MIXED_T = 5.0

_LOG = logging.getLogger(__name__)


def unit_values(
    stat_img: Any, space: Space, *, fingerprint: str | Sequence[str] | None = None
) -> npt.NDArray[np.float64]:
    """Read one value for each unit, (n_units,), from an image or array; warn where it is mixed."""
    if isinstance(stat_img, np.ndarray):
        if stat_img.dtype.kind not in "biuf":
            raise SpaceError(f"array holds {stat_img.dtype}; expected real numbers")
        values = stat_img if stat_img.shape == (space.n_units,) else space.to_units(stat_img)
        if values.shape != (space.n_units,):
            raise SpaceError(f"array has {len(values)} volumes; expected one")
        return values.astype(np.float64)
    image = open_image(stat_img, space)
    _check_fingerprint(image, space, fingerprint)
    volume = image.volume()
    mixed = white_correlation(volume, space)
    if mixed > 0:
        _LOG.warning(
            "%s mixes neighbours: white matter, which has no units, follows the units beside it "
            "(r = %.2f), as after smoothing, interpolation or TFCE. Each unit's value is a mixture "
            "and says little about the unit; name units from maps that were neither smoothed nor "
            "resampled",
            image.label,
            mixed,
        )
    return np.asarray(space.to_units(volume), dtype=np.float64)


def white_correlation(volume: npt.NDArray[Any], space: Space) -> float:
    """Correlate white voxels of (n_x, n_y, n_z) with units beside them; 0 if they are unrelated.

    The largest over the six directions: a shift along one axis mixes along that axis alone.
    """
    largest = 0.0
    white, grey = space.white, space.grey
    for axis in range(3):
        for step in (1, -1):  # the grid's border is outside the brain: nothing wraps around
            beside = white & np.roll(grey, step, axis)
            pair = np.stack([volume[beside], np.roll(volume, step, axis)[beside]])
            pair = pair[:, np.isfinite(pair).all(axis=0)].astype(np.float64)
            if pair.shape[1] < 3 or not np.ptp(pair, axis=1).all():
                continue  # white matter is constant: masked or thresholded maps
            r = float(np.corrcoef(pair)[0, 1])
            if r > _MIXED and r * math.sqrt(pair.shape[1]) > _MIXED_T:
                largest = max(largest, r)
    return largest


def select_units(
    values: npt.NDArray[np.float64],
    *,
    threshold: float | None = None,
    top_percent: float | None = None,
    two_sided: bool = True,
) -> npt.NDArray[np.intp]:
    """Choose units by their values (n_units,), largest absolute value first; NaN never.

    >>> select_units(np.array([1.0, -3.0, 0.0, np.nan, 2.0]), top_percent=40)
    array([1, 4])
    """
    check_threshold(threshold, top_percent, two_sided=two_sided)
    strength = np.abs(values) if two_sided else values
    strength = np.where(np.isnan(strength), -np.inf, strength)
    if threshold is not None:
        chosen = np.flatnonzero(strength > threshold)
    else:
        n_top = math.ceil(len(values) * float(top_percent or 0) / 100)
        chosen = np.argsort(-strength, kind="stable")[:n_top]
        chosen = chosen[strength[chosen] > 0]
    return chosen[np.argsort(-np.abs(values[chosen]), kind="stable")]


def units_at(space: Space, units: npt.ArrayLike) -> pd.DataFrame:
    """Describe units (n,) in the order given: columns `LOCATE_COLUMNS` but ``value``."""
    units = np.asarray(units, dtype=np.intp)
    table = unit_table(space.sites, space.voxels[units], space.affine, units)
    return table[list(LOCATE_COLUMNS[:-1])]


def summarize(table: pd.DataFrame, space: Space) -> pd.DataFrame:
    """Sum up located units by layer and role, in the order of the sites.

    Columns ``layer``, ``role``, ``n_units`` (located), ``n_positive``, ``share`` (of all units of
    that layer and role), ``mean``, ``peak`` (value with the largest absolute value) and
    ``peak_address``.
    """
    keys = ["layer", "role"]
    sites = pd.DataFrame(
        [(site.layer, site.role, site.width) for site in space.sites], columns=[*keys, "width"]
    ).astype({"layer": "Int64", "role": "str"})
    sizes = sites.groupby(keys, sort=False, dropna=False, as_index=False)["width"].sum()
    units = table.assign(positive=table["value"] > 0, size=table["value"].abs())
    units = units.reset_index(drop=True)
    groups = units.groupby(keys, sort=False, dropna=False, as_index=False)
    summary = groups.agg(
        n_units=("value", "size"),
        n_positive=("positive", "sum"),
        mean=("value", "mean"),
        largest=("size", "idxmax"),
    )
    merged: pd.DataFrame = sizes.merge(summary, on=keys)
    peaks = units.loc[merged["largest"]].reset_index()
    merged = merged.assign(peak=peaks["value"], peak_address=peaks["address"])
    merged["share"] = merged["n_units"] / merged["width"]
    columns = ["layer", "role", "n_units", "n_positive", "share", "mean", "peak", "peak_address"]
    types = {"role": "str", "n_units": "int64", "n_positive": "int64", "peak_address": "str"}
    return merged[columns].astype(types)


def check_threshold(threshold: float | None, top_percent: float | None, *, two_sided: bool) -> None:
    """Refuse thresholds that make no sense."""
    if (threshold is None) == (top_percent is None):
        raise SpaceError(
            f"give exactly one of threshold and top_percent, got {threshold} and {top_percent}"
        )
    if threshold is not None and (not fits(threshold, float) or (two_sided and threshold < 0)):
        raise SpaceError(
            f"threshold is {threshold!r}; expected a finite number, from 0 in a two-sided search "
            "(negative values are found as well)"
        )
    if top_percent is not None and not (fits(top_percent, float) and 0 < top_percent <= 100):
        raise SpaceError(f"top_percent is {top_percent!r}; expected more than 0 and at most 100")


def _check_fingerprint(
    image: GridImage, space: Space, fingerprint: str | Sequence[str] | None
) -> None:
    if fingerprint is None:
        carried = read_fingerprint(image.header)
        if carried is not None and carried != space.fingerprint()[: len(carried)]:
            _LOG.info("%s carries fingerprint %s, which was not checked", image.label, carried)
        return
    expected = (fingerprint,) if isinstance(fingerprint, str) else tuple(fingerprint)
    carried = fingerprint_differs(image.header, *expected)
    if carried is not None:
        raise SpaceError(
            f"{image.label} has the fingerprint {carried}, but the dataset has "
            f"{' or '.join(given[:16] for given in expected)}: it was made from another model, "
            "other sites or another calibration; use an image that was made from this dataset"
        )
