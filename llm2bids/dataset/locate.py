"""Locating: any tool's image in a dataset's space -> a table of units in model coordinates."""

from pathlib import Path
from typing import Any

import pandas as pd

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.exceptions import UsageError
from llm2bids.space.space import Space
from llm2bids.space.stat_map import check_threshold, select_units, unit_values, units_at


def locate(
    stat_img: Any,
    dataset: Dataset | Space | str | Path,
    *,
    threshold: float | None = None,
    top_percent: float | None = None,
    two_sided: bool = True,
) -> pd.DataFrame:
    """List the units above a threshold in a statistical map.

    Parameters
    ----------
    stat_img : nibabel image, path, or ndarray of shape (n_units,) or the space's
        One value for each unit, from any tool. Units that are NaN are left out.
    dataset : Dataset, path of a dataset, or Space
        Where each unit lies. With a dataset, an image that carries the fingerprint of another one
        is refused; an image without one is accepted by its grid.
    threshold : float, optional
        Units above it are listed; with `two_sided` those with a larger absolute value. Exactly
        one of `threshold` and `top_percent` has to be given. With 0, a map that was thresholded
        already gives its surviving units.
    top_percent : float, optional
        List this share of all units, those with the largest value (two-sided: absolute value),
        rounded up; units at 0 (one-sided: at or below 0) are never listed.
    two_sided : bool, default=True
        Count negative values as well.

    Returns
    -------
    DataFrame
        One row for each unit, largest absolute value first: ``address``, ``module`` (str),
        ``layer`` (Int64), ``role`` (str), ``head`` (Int64), ``unit`` (int64), ``x``, ``y``, ``z``
        (float64, mm), ``value`` (float64). A map that was smoothed or interpolated is named in the
        log: its values are mixtures of neighbouring units.

    Raises
    ------
    SpaceError
        If the file is no image, is on another grid, has more than one volume or carries another
        fingerprint, or the threshold makes no sense.
    DatasetError
        If the path is no dataset of ours.
    """
    check_threshold(threshold, top_percent, two_sided=two_sided)
    space, fingerprints = space_of(dataset)
    values = unit_values(stat_img, space, fingerprint=fingerprints)
    chosen = select_units(values, threshold=threshold, top_percent=top_percent, two_sided=two_sided)
    return units_at(space, chosen).assign(value=values[chosen])


def space_of(dataset: Any) -> tuple[Space, tuple[str, str] | None]:
    """Give the space of a Dataset, a path or a Space, and the fingerprints its images may carry."""
    if isinstance(dataset, Space):
        return dataset, None  # without calibration, what maps carry cannot be told
    if isinstance(dataset, str | Path):
        dataset = open_dataset(dataset)
    if isinstance(dataset, Dataset):
        return dataset.space, (dataset.fingerprint, dataset.space.fingerprint())
    raise UsageError(
        f"dataset is a {type(dataset).__name__}; expected a Dataset, the path of one, or a Space"
    )
