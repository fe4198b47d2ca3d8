"""Mosaics: a map in all slices side by side."""

import math

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.draw.color import diverging_indices, diverging_palette
from llm2bids.report.draw.packed import slice_labels
from llm2bids.report.draw.png import data_address, palette_png
from llm2bids.report.draw.svg import element, figure
from llm2bids.space.space import Space

_GAP, _LABEL = 7, 20


def mosaic_figure(
    space: Space, values: npt.NDArray[np.float32], *, limit: float, alt: str
) -> Markup:
    """Draw a map, one slice a cell, from input (first) to output (last).

    Parameters
    ----------
    space : Space
        Where each unit lies.
    values : ndarray of float32, shape (n_units,)
        The map.
    limit : float
        Absolute value of full colour.
    alt : str
        What the map shows.

    Returns
    -------
    Markup
        The drawing: one image, with a border around each site's panel and a label for each slice.
    """
    x, y, _ = space.brain_box
    width, height = x.stop - x.start, y.stop - y.start
    depths = np.unique(space.voxels[:, 2])
    columns = mosaic_columns(len(depths), width, height)
    rows = math.ceil(len(depths) / columns)
    step = np.array([width + _GAP, height + _GAP + _LABEL])
    number = np.searchsorted(depths, space.voxels[:, 2])
    corners = np.stack([number % columns, number // columns], axis=1) * step
    at = corners + space.voxels[:, :2] - [x.start, y.start - _LABEL]
    size = (columns * int(step[0]), rows * int(step[1]))
    image = np.full(size[::-1], 127, dtype=np.uint8)
    image[at[:, 1], at[:, 0]] = diverging_indices(values, limit)
    parts = _panels(space, at)
    parts.append(
        element("image", href=data_address(palette_png(image, diverging_palette())),
                width=size[0], height=size[1], class_="pixels")
    )  # fmt: skip
    for slot, label in enumerate(slice_labels(space)):
        left, top = (np.array([slot % columns, slot // columns]) * step).tolist()
        short = label.removeprefix("layer ").split("_")[0]
        parts.append(element("text", short, x=left, y=top + 15, class_="slice"))
    return figure(parts, width=size[0], height=size[1], alt=alt)


def mosaic_columns(n_slices: int, width: int, height: int) -> int:
    """Choose how many slices lie side by side: about as wide as high, twice over.

    Parameters
    ----------
    n_slices, width, height : int
        Slices, and their size.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> mosaic_columns(32, 112, 110)
    8
    """
    return max(1, min(n_slices, round(math.sqrt(2 * n_slices * height / width))))


def _panels(space: Space, at: npt.NDArray[np.int64]) -> list[Markup]:
    """Draw the border of each panel, as one path."""
    path = []
    for site in space.sites:
        units = space.site_slices[site.name]
        depth = space.voxels[units, 2]
        for one in np.unique(depth):
            places = at[units][depth == one]
            (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0) + 1
            path.append(f"M{left} {top}H{right}V{bottom}H{left}Z")
    return [element("path", d="".join(path), class_="panel")]
