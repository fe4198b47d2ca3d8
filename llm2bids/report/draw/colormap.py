"""The project's colour maps, built in OKLab: even steps, no rainbow, safe for colour-blind readers.

A diverging map goes from its middle, the colour of a panel of the flat map, in two arms: through
sky to indigo below zero, through amber to rust above. Both arms have the same lightness and chroma
at the same distance from the middle, so that signs differ in hue alone and magnitudes can be
compared across them; blue against orange is what all common forms of colour blindness keep. The
dark maps go from dark to light, the light ones from light to dark. Steps along each arm are equal
distances in OKLab.

References
----------
Ottosson (2020), A perceptual color space for image processing:
https://bottosson.github.io/posts/oklab/
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

N_COLORS = 257
"""Colours of a map: an odd number, so that a diverging map has its middle."""

_FINE = 4096
"""Points of an arm before they are spaced evenly."""

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
class Arm:
    """One arm of a map in OKLCh.

    Parameters
    ----------
    lightness : tuple of float
        At its beginning and end, from 0 to 1; a straight line between.
    chroma : tuple of float
        At its beginning, middle and end; a parabola between.
    hue : tuple of float
        At its beginning and end, in degrees; a straight line between.
    """

    lightness: tuple[float, float]
    chroma: tuple[float, float, float]
    hue: tuple[float, float]


_COLD_LIGHT = Arm((0.945, 0.42), (0.004, 0.112, 0.138), (226.0, 264.0))
_HOT_LIGHT = Arm((0.945, 0.42), (0.004, 0.112, 0.138), (74.0, 36.0))
_COLD_DARK = Arm((0.265, 0.87), (0.004, 0.116, 0.098), (262.0, 216.0))
_HOT_DARK = Arm((0.265, 0.87), (0.004, 0.116, 0.098), (40.0, 86.0))
_SEQUENTIAL_LIGHT = Arm((0.945, 0.31), (0.004, 0.118, 0.112), (88.0, 20.0))
_SEQUENTIAL_DARK = Arm((0.265, 0.93), (0.004, 0.118, 0.100), (18.0, 94.0))

ARMS: dict[str, tuple[Arm, ...]] = {
    "llm2bids": (_COLD_LIGHT, _HOT_LIGHT),
    "llm2bids_dark": (_COLD_DARK, _HOT_DARK),
    "llm2bids_sequential": (_SEQUENTIAL_LIGHT,),
    "llm2bids_sequential_dark": (_SEQUENTIAL_DARK,),
}
"""Name of each map -> its arms: two of a diverging map, that below zero first, or one."""


def oklab_to_srgb(lab: npt.ArrayLike) -> Float64:
    """Turn OKLab into sRGB.

    Parameters
    ----------
    lab : array_like of float, shape (..., 3)
        Lightness from 0 to 1, and a and b.

    Returns
    -------
    ndarray of float64, shape (..., 3)
        Red, green, blue from 0 to 1; outside of that where sRGB has no such colour.

    Examples
    --------
    >>> oklab_to_srgb([1.0, 0.0, 0.0]).round(3).tolist()
    [1.0, 1.0, 1.0]
    """
    linear = (np.asarray(lab, dtype=np.float64) @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    size = np.abs(linear)
    encoded = np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)
    return np.asarray(np.copysign(encoded, linear))


def arm_colors(arm: Arm, n_colors: int) -> Float64:
    """Space colours evenly along an arm.

    Parameters
    ----------
    arm : Arm
        Where it begins and ends.
    n_colors : int
        Number of colours, two at least.

    Returns
    -------
    ndarray of float64, shape (n_colors, 3)
        OKLab, with equal distances between neighbours.
    """
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
    """Give the colours of one of the project's maps.

    Parameters
    ----------
    name : str
        Key of `ARMS`.

    Returns
    -------
    ndarray of float64, shape (N_COLORS, 3)
        Red, green, blue from 0 to 1, of the smallest value first.
    """
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
    """Make one of the project's colour maps for matplotlib.

    Parameters
    ----------
    name : str
        Key of `ARMS`.

    Returns
    -------
    ListedColormap
        Of `N_COLORS` colours.
    """
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
        for one in (colormap(name), colormap(name).reversed()):
            if one.name not in colormaps:
                colormaps.register(one)
            names.append(one.name)
    return tuple(names)
