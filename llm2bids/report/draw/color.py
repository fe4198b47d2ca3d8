"""Colours that colour-blind readers tell apart, on white and on black."""

import numpy as np
import numpy.typing as npt

COLD, HOT = (31, 119, 196), (221, 92, 20)
"""Below and above zero: blue and vermilion, as red, green, blue."""

N_TASK_COLORS = 8
"""Colours of tasks in the style sheet, ``--c0`` and on (after Okabe and Ito, 2008)."""

LEVELS = 127
"""Largest index of a quantised value; indices run from -127 to 127."""


def task_color(index: int) -> str:
    """Give the style variable of a task's colour.

    Parameters
    ----------
    index : int
        Place of the task in the dataset's list; colours come again after `N_TASK_COLORS`.

    Returns
    -------
    str
        For an attribute, e.g. ``"var(--c0)"``.
    """
    return f"var(--c{index % N_TASK_COLORS})"


def diverging_palette() -> npt.NDArray[np.uint8]:
    """Give the palette of maps: index 127 is zero and transparent, so that the page shows through.

    Returns
    -------
    ndarray of uint8, shape (255, 4)
        Red, green, blue, opacity, from cold through transparent to hot.
    """
    steps = np.arange(-LEVELS, LEVELS + 1) / LEVELS
    palette = np.empty((len(steps), 4), dtype=np.uint8)
    palette[:, :3] = np.where((steps < 0)[:, np.newaxis], COLD, HOT)
    palette[:, 3] = np.rint(255 * np.abs(steps) ** 0.9)
    return palette


def diverging_indices(values: npt.NDArray[np.floating], limit: float) -> npt.NDArray[np.uint8]:
    """Turn values into indices of `diverging_palette`.

    Parameters
    ----------
    values : ndarray of float, any shape
        Values; NaN is transparent.
    limit : float
        Absolute value of full colour; larger ones are clipped.

    Returns
    -------
    ndarray of uint8
        Of the same shape.

    Examples
    --------
    >>> diverging_indices(np.array([-2.0, 0.0, np.nan, 0.5, 9.0]), 1.0).tolist()
    [0, 127, 127, 191, 254]
    """
    scaled = np.nan_to_num(values / (limit or 1.0), nan=0.0, posinf=1.0, neginf=-1.0)
    return np.asarray(np.rint(np.clip(scaled, -1, 1) * LEVELS) + LEVELS, dtype=np.uint8)


def full_color(values: npt.NDArray[np.floating], quantile: float = 0.995) -> float:
    """Choose the absolute value of full colour, so that a few outliers do not pale the rest.

    Parameters
    ----------
    values : ndarray of float
        Values; NaN are left out.
    quantile : float
        Of the absolute values.

    Returns
    -------
    float
        Above 0.
    """
    sizes = np.abs(values[np.isfinite(values)])
    if sizes.size == 0 or not sizes.any():
        return 1.0
    return float(np.quantile(sizes, quantile)) or float(sizes.max())
