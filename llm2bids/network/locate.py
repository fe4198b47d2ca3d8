"""Locating: any tool's image in a space -> a table of units in model coordinates."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.affines import apply_affine

from llm2bids.exceptions import NetworkError
from llm2bids.space.grid import GridImage, open_image
from llm2bids.space.header import fingerprint_differs, read_fingerprint
from llm2bids.space.space import Space

LOCATE_COLUMNS = (
    "address",
    "module",
    "layer",
    "role",
    "head",
    "unit",
    "x",
    "y",
    "z",
    "value",
)
"""Columns of the table that `locate` returns."""

_LOG = logging.getLogger(__name__)


def locate(
    stat_img: Any,
    space: Space,
    *,
    threshold: float | None = None,
    top_percent: float | None = None,
    two_sided: bool = True,
    fingerprint: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """List the units above a threshold in a statistical map.

    Parameters
    ----------
    stat_img : nibabel image or path
        One volume in the space, from any tool. Units that are NaN are left out.
    space : Space
        The space of the image.
    threshold : float, optional
        Units above it are listed; with `two_sided` those with a larger absolute value. Exactly
        one of `threshold` and `top_percent` has to be given. With 0, a map that was thresholded
        already gives its surviving units.
    top_percent : float, optional
        List this share of all units, those with the largest value (two-sided: absolute value),
        rounded up; units at 0 (one-sided: at or below 0) are never listed.
    two_sided : bool, default=True
        Count negative values as well.
    fingerprint : str or sequence of str, optional
        From `Space.fingerprint`, with or without calibration: those that an image in the space may
        carry. An image that carries another one is refused; one without is accepted by its grid.

    Returns
    -------
    DataFrame
        Columns `LOCATE_COLUMNS`, one row for each unit, largest absolute value first: ``address``,
        ``module``, ``role`` (str), ``layer``, ``head`` (Int64), ``unit`` (int64), ``x``, ``y``,
        ``z`` (float64, mm), ``value`` (float64).

    Raises
    ------
    NetworkError
        If the image carries another fingerprint, or the threshold
        makes no sense.
    SpaceError
        If the file is no image, or the image is on another grid.
    """
    check_threshold(threshold, top_percent, two_sided=two_sided)
    values = unit_values(stat_img, space, fingerprint=fingerprint)
    chosen = select_units(values, threshold=threshold, top_percent=top_percent, two_sided=two_sided)
    return units_at(space, chosen).assign(value=values[chosen])


def select_units(
    values: npt.NDArray[np.float64],
    *,
    threshold: float | None = None,
    top_percent: float | None = None,
    two_sided: bool = True,
) -> npt.NDArray[np.intp]:
    """Choose units by their values, largest absolute value first.

    Parameters
    ----------
    values : ndarray of float64, shape (n_units,)
        NaN where a unit has none.
    threshold, top_percent, two_sided
        As for `locate`.

    Returns
    -------
    ndarray of intp, shape (n_chosen,)
        Units in recording order's numbers; equal values in recording order.

    Raises
    ------
    NetworkError
        If the threshold makes no sense.

    Examples
    --------
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
    """Describe some units in model coordinates.

    Parameters
    ----------
    space : Space
        Their space.
    units : array_like of int
        Units in recording order (row numbers of the unit table), in any order.

    Returns
    -------
    DataFrame
        Columns `LOCATE_COLUMNS` but ``value``, one row for each unit, in the order given.
    """
    units = np.asarray(units, dtype=np.intp)
    stops = np.cumsum([site.width for site in space.sites])
    which = np.searchsorted(stops, units, side="right")
    sites = [space.sites[index] for index in which]
    within = units - (stops - [site.width for site in space.sites])[which]
    heads = [
        None if site.head_size is None else int(unit) // site.head_size
        for site, unit in zip(sites, within, strict=True)
    ]
    world = apply_affine(space.affine, space.voxels[units])
    address = [f"{site.name}[{unit}]" for site, unit in zip(sites, within, strict=True)]
    return pd.DataFrame(
        {
            "address": pd.Series(address, dtype="str"),
            "module": pd.Series([site.name for site in sites], dtype="str"),
            "layer": pd.array([site.layer for site in sites], dtype="Int64"),
            "role": pd.Series([site.role for site in sites], dtype="str"),
            "head": pd.array(heads, dtype="Int64"),
            "unit": within.astype(np.int64),
            "x": world[:, 0],
            "y": world[:, 1],
            "z": world[:, 2],
        }
    )


def unit_values(
    stat_img: Any, space: Space, *, fingerprint: str | Sequence[str] | None = None
) -> npt.NDArray[np.float64]:
    """Read one value for each unit from an image, after checking that it is of this space.

    Parameters
    ----------
    stat_img : nibabel image or path
        One volume in the space.
    space : Space
        The space of the image.
    fingerprint : str or sequence of str, optional
        Fingerprints that the image may carry.

    Returns
    -------
    ndarray of float64, shape (n_units,)
        Values in recording order.

    Raises
    ------
    NetworkError
        If the image carries another fingerprint.
    SpaceError
        If the file is no image, or the image is on another grid or has more than one volume.
    """
    image = open_image(stat_img, space)
    _check_fingerprint(image, space, fingerprint)
    return np.asarray(space.to_units(image.volume()), dtype=np.float64)


def summarize(table: pd.DataFrame, space: Space) -> pd.DataFrame:
    """Sum up located units by layer and role.

    Parameters
    ----------
    table : DataFrame
        From `locate`.
    space : Space
        The same space.

    Returns
    -------
    DataFrame
        One row for each layer and role with at least one unit, in the order of the sites:
        ``layer`` (Int64), ``role`` (str), ``n_units`` (int64, located), ``n_positive`` (int64,
        those with a value above 0), ``share`` (float64, located over all units of that layer and
        role), ``mean`` (float64, of the located values), ``peak`` (float64, value with the largest
        absolute value) and ``peak_address`` (str).
    """
    sizes: dict[tuple[int, str], int] = {}
    for site in space.sites:
        key = (-1 if site.layer is None else site.layer, site.role)
        sizes[key] = sizes.get(key, 0) + site.width
    rows: list[dict[str, object]] = []
    keys = list(zip(table["layer"].fillna(-1).astype(int), table["role"], strict=True))
    groups: dict[tuple[int, str], list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    for key in sorted(groups, key=list(sizes).index):
        group = table.iloc[groups[key]]
        values = group["value"].to_numpy(dtype=np.float64)
        peak = int(np.abs(values).argmax())
        rows.append(
            {
                "layer": None if key[0] < 0 else key[0],
                "role": key[1],
                "n_units": len(group),
                "n_positive": int(np.count_nonzero(values > 0)),
                "share": len(group) / sizes[key],
                "mean": values.mean(),
                "peak": values[peak],
                "peak_address": group["address"].iloc[peak],
            }
        )
    columns = ["layer", "role", "n_units", "n_positive", "share", "mean", "peak", "peak_address"]
    types = {"layer": "Int64", "role": "str", "n_units": "int64", "n_positive": "int64"}
    types |= {"share": "float64", "mean": "float64", "peak": "float64", "peak_address": "str"}
    return pd.DataFrame(rows, columns=columns).astype(types)


def check_threshold(threshold: float | None, top_percent: float | None, *, two_sided: bool) -> None:
    """Refuse thresholds that make no sense.

    Parameters
    ----------
    threshold, top_percent, two_sided
        As for `locate`.

    Raises
    ------
    NetworkError
        If not exactly one of the two is given, or it is out of range.
    """
    if (threshold is None) == (top_percent is None):
        raise NetworkError(
            f"give exactly one of threshold and top_percent, got {threshold} and {top_percent}"
        )
    if threshold is not None and (not math.isfinite(threshold) or (two_sided and threshold < 0)):
        raise NetworkError(
            f"threshold is {threshold}; expected a finite number, from 0 in a two-sided search "
            "(negative values are found as well)"
        )
    if top_percent is not None and not 0 < top_percent <= 100:
        raise NetworkError(f"top_percent is {top_percent}; expected more than 0 and at most 100")


def _check_fingerprint(
    image: GridImage, space: Space, fingerprint: str | Sequence[str] | None
) -> None:
    if fingerprint is None:
        found = read_fingerprint(image.header)
        if found is not None and found != space.fingerprint()[: len(found)]:
            _LOG.info("%s carries fingerprint %s, which was not checked", image.label, found)
        return
    expected = (fingerprint,) if isinstance(fingerprint, str) else tuple(fingerprint)
    found = fingerprint_differs(image.header, *expected)
    if found is not None:
        raise NetworkError(
            f"{image.label} has the fingerprint {found}, but the dataset has "
            f"{' or '.join(one[:16] for one in expected)}: it was made from another model, other "
            "sites or another calibration; use an image that was made from this dataset"
        )
