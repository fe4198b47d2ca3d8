"""Colours that colour-blind readers tell apart, on white and on black.

The project's colour maps are built in OKLab (https://bottosson.github.io/posts/oklab/): even steps,
no rainbow. A diverging map goes from its middle, the colour of a panel of the flat map, in two
arms: through sky to indigo below zero, through amber to rust above. Both arms have the same
lightness and chroma at the same distance from the middle, so that signs differ in hue alone and
magnitudes can be compared across them; blue against orange is what all common forms of colour
blindness keep. The dark maps go from dark to light, the light ones from light to dark.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

Theme = Literal["light", "dark"]

Float64 = npt.NDArray[np.float64]

# Below and above zero on the page: blue and vermilion, as red, green, blue
COLD, HOT = (31, 119, 196), (221, 92, 20)

# Colours of tasks in the style sheet, ``--c0`` and on (after Okabe and Ito, 2008)
N_TASK_COLORS = 8

LEVELS = 127  # largest index of a quantised value; indices run from -127 to 127
N_COLORS = 257  # colours of a map: an odd number, so that a diverging map has its middle
_FINE = 4096  # points of an arm before they are spaced evenly
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)


@dataclass(frozen=True)
class _Arm:
    """One arm of a map in OKLCh, from the middle out: chroma is a parabola, the rest is linear."""

    lightness: tuple[float, float]  # beginning, end
    chroma: tuple[float, float, float]  # beginning, middle, end
    hue: tuple[float, float]  # beginning, end, in degrees


# Name of each map -> its arms: two of a diverging map, that below zero first, or one
ARMS: dict[str, tuple[_Arm, ...]] = {
    "llm2bids": (
        _Arm((0.945, 0.42), (0.004, 0.112, 0.138), (226.0, 264.0)),
        _Arm((0.945, 0.42), (0.004, 0.112, 0.138), (74.0, 36.0)),
    ),
    "llm2bids_dark": (
        _Arm((0.265, 0.87), (0.004, 0.116, 0.098), (262.0, 216.0)),
        _Arm((0.265, 0.87), (0.004, 0.116, 0.098), (40.0, 86.0)),
    ),
    "llm2bids_sequential": (_Arm((0.945, 0.31), (0.004, 0.118, 0.112), (88.0, 20.0)),),
    "llm2bids_sequential_dark": (_Arm((0.265, 0.93), (0.004, 0.118, 0.100), (18.0, 94.0)),),
}


def task_color(index: int) -> str:
    """Give the style variable of a task's colour; they come again after `N_TASK_COLORS`."""
    return f"var(--c{index % N_TASK_COLORS})"


def diverging_palette() -> npt.NDArray[np.uint8]:
    """Give the page's palette of maps, (255, 4): index 127 is zero and transparent."""
    steps = np.arange(-LEVELS, LEVELS + 1) / LEVELS
    palette = np.empty((len(steps), 4), dtype=np.uint8)
    palette[:, :3] = np.where((steps < 0)[:, np.newaxis], COLD, HOT)
    palette[:, 3] = np.rint(255 * np.abs(steps) ** 0.9)
    return palette


def diverging_indices(values: npt.NDArray[np.floating], limit: float) -> npt.NDArray[np.uint8]:
    """Turn values of any shape into indices of `diverging_palette`; NaN is transparent.

    >>> diverging_indices(np.array([-2.0, 0.0, np.nan, 0.5, 9.0]), 1.0).tolist()
    [0, 127, 127, 191, 254]
    """
    scaled = np.nan_to_num(values / (limit or 1.0), nan=0.0, posinf=1.0, neginf=-1.0)
    return np.asarray(np.rint(np.clip(scaled, -1, 1) * LEVELS) + LEVELS, dtype=np.uint8)


def full_color(values: npt.NDArray[np.floating], quantile: float = 0.995) -> float:
    """Choose the absolute value of full colour, so that a few outliers do not pale the rest."""
    sizes = np.abs(values[np.isfinite(values)])
    if sizes.size == 0 or not sizes.any():
        return 1.0
    return float(np.quantile(sizes, quantile)) or float(sizes.max())


def flat_limit(values: npt.NDArray[np.floating]) -> float:
    """Choose the absolute value of full colour of a flat map, to two digits.

    >>> flat_limit(np.array([0.9772])), flat_limit(np.array([-14.2]))
    (0.98, 14.0)
    """
    return float(f"{full_color(values, 0.98):.1e}")


def oklab_to_srgb(lab: npt.ArrayLike) -> Float64:
    """Turn OKLab into sRGB, both (..., 3); outside of 0 to 1 where sRGB has no such colour.

    >>> oklab_to_srgb([1.0, 0.0, 0.0]).round(3).tolist()
    [1.0, 1.0, 1.0]
    """
    linear = (np.asarray(lab, dtype=np.float64) @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    size = np.abs(linear)
    encoded = np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)
    return np.asarray(np.copysign(encoded, linear))


def arm_colors(arm: _Arm, n_colors: int) -> Float64:
    """Space colours along an arm: OKLab, (n_colors, 3), equal distances between neighbours."""
    t = np.linspace(0.0, 1.0, _FINE)
    lightness = np.interp(t, [0, 1], arm.lightness)
    chroma = np.polyval(np.polyfit([0.0, 0.5, 1.0], arm.chroma, 2), t)
    hue = np.radians(np.interp(t, [0, 1], arm.hue))
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    even = np.linspace(0.0, length[-1], n_colors)
    return np.stack([np.interp(even, length, lab[:, axis]) for axis in range(3)], axis=1)


def map_colors(name: str) -> Float64:
    """Give the sRGB colours of one of `ARMS`, (N_COLORS, 3), of the smallest value first."""
    arms = ARMS[name]
    if len(arms) == 1:
        lab = arm_colors(arms[0], N_COLORS)
    else:
        cold, hot = (arm_colors(arm, N_COLORS // 2 + 1) for arm in arms)
        middle = (cold[:1] + hot[:1]) / 2
        lab = np.concatenate([cold[:0:-1], middle, hot[1:]])
    return np.clip(oklab_to_srgb(lab), 0.0, 1.0)


@cache
def colormap(name: str) -> "ListedColormap":
    """Make one of `ARMS` for matplotlib."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(map_colors(name), name=name)


def register_colormaps() -> tuple[str, ...]:
    """Make the project's colour maps known to matplotlib, and so to nilearn, by name.

    Returns
    -------
    tuple of str
        ``"llm2bids"`` (diverging), ``"llm2bids_sequential"``, and both with ``_dark`` at the end,
        for dark pages; each also with ``_r``, reversed. Calling it again changes nothing.

    Examples
    --------
    >>> from matplotlib import colormaps
    >>> names = register_colormaps()
    >>> colormaps["llm2bids"].N
    257
    """
    from matplotlib import colormaps

    names = []
    for name in ARMS:
        for cmap in (colormap(name), colormap(name).reversed()):
            if cmap.name not in colormaps:
                colormaps.register(cmap)
            names.append(cmap.name)
    return tuple(names)
